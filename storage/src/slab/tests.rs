use super::*;

/// Tests of usage and compaction look at the whole process.
pub(crate) static WHOLE: std::sync::Mutex<()> = std::sync::Mutex::new(());

struct Object {
    p: NonNull<u8>,
    size: usize,
    fill: u8,
}
// SAFETY: owned memory.
unsafe impl Send for Object {}

impl Object {
    fn new(size: usize, fill: u8) -> Object {
        let p = allocate(size);
        assert_eq!(p.as_ptr().addr() % if class_size(size).is_multiple_of(8) { 8 } else { 4 }, 0);
        // SAFETY: the object has its size.
        unsafe { p.as_ptr().write_bytes(fill, class_size(size)) };
        Object { p, size, fill }
    }
    fn check(&self) {
        // SAFETY: written whole in `new`, or copied as far as `size`.
        let bytes = unsafe { std::slice::from_raw_parts(self.p.as_ptr(), self.size) };
        assert!(bytes.iter().all(|&b| b == self.fill), "an object of {} bytes was overwritten", self.size);
    }
    fn relocate_if_leaving(&mut self) -> bool {
        // SAFETY: the object is owned, and its place is replaced.
        unsafe {
            let is_leaving = is_leaving(self.p, self.size);
            if is_leaving {
                self.p = relocate(self.p, self.size);
            }
            is_leaving
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.check();
        // SAFETY: owned, and dropped once.
        unsafe { release(self.p, self.size) };
    }
}

fn next(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

#[test]
fn objects_of_all_sizes_keep_their_bytes() {
    let mut seed = 1;
    let mut live: Vec<Object> = Vec::new();
    for i in 0..if cfg!(miri) { 300 } else { 60_000 } {
        if live.len() > 3000 || (!live.is_empty() && next(&mut seed).is_multiple_of(3)) {
            live.swap_remove(next(&mut seed) % live.len());
        } else {
            live.push(Object::new(1 + next(&mut seed) % 5000, i as u8));
        }
    }
}

#[test]
fn threads_free_what_others_allocated() {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..4).map(|_| std::sync::mpsc::channel::<Object>()).unzip();
    std::thread::scope(|scope| {
        for (i, receiver) in receivers.into_iter().enumerate() {
            let senders = senders.clone();
            scope.spawn(move || {
                let mut seed = i as u64;
                for n in 0..if cfg!(miri) { 50 } else { 20_000 } {
                    let object = Object::new(1 + next(&mut seed) % 300, n as u8);
                    // The other end may have ended already; then the object is freed here.
                    let _ = senders[next(&mut seed) % 4].send(object);
                    while let Ok(object) = receiver.try_recv() {
                        drop(object);
                    }
                }
            });
        }
        drop(senders);
    });
}

#[test]
#[cfg_attr(any(miri, shoal_checked_alloc), ignore = "there are no spans")]
fn sparse_spans_are_emptied_and_given_back() {
    let _whole = WHOLE.lock();
    let size = 88;
    let mut objects: Vec<Option<Object>> = (0..300_000).map(|i| Some(Object::new(size, i as u8))).collect();
    let full = usage();
    let mut seed = 7;
    objects.iter_mut().for_each(|o| {
        if !next(&mut seed).is_multiple_of(4) {
            *o = None;
        }
    });
    let sparse = usage();
    assert!(sparse.span_bytes + (8 << 20) > full.span_bytes, "random deletes empty hardly any span");
    assert!(sparse.is_sparse());
    assert!(begin_compaction() > 100);
    let moved = objects.iter_mut().flatten().filter_map(|o| o.relocate_if_leaving().then_some(())).count();
    assert!(moved > 10_000);
    end_compaction();
    objects.iter().flatten().for_each(Object::check);
    let dense = usage();
    let own = |u: Usage| (u.span_bytes as f64, u.object_bytes as f64);
    assert!(own(dense).0 < own(sparse).0 - 10e6, "{dense:?} after {sparse:?}");
}

#[test]
#[cfg_attr(any(miri, shoal_checked_alloc), ignore = "there are no spans")]
fn spans_that_could_not_be_emptied_are_used_again() {
    let _whole = WHOLE.lock();
    let size = 1000;
    let mut objects: Vec<Object> = (0..2000).map(|i| Object::new(size, i as u8)).collect();
    let mut kept = 0;
    objects.retain(|_| {
        kept += 1;
        kept % 3 == 0
    });
    begin_compaction();
    let before = usage().span_bytes;
    end_compaction();
    let more: Vec<Object> = (0..1000).map(|i| Object::new(size, i as u8)).collect();
    assert!(usage().span_bytes <= before + (1 << 20), "there was room for {} objects", more.len());
}
