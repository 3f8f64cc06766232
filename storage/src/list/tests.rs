use super::*;
use proptest::prelude::*;

fn thresholds(size: i32) -> Thresholds {
    Thresholds { list_max_listpack_size: size, ..Thresholds::default() }
}

impl List {
    fn check(&self) {
        if let View::Big(nodes) = self.word.view() {
            nodes.check();
        }
    }
}

#[test]
fn nodes_hold_what_the_directive_says() {
    for (size, nodes) in [(-2, 13), (-1, 25), (10, 100), (1, 1000)] {
        let t = thresholds(size);
        let mut list = List::new();
        (0..1000).for_each(|_| list.push_back(&[b'x'; 98], &t));
        assert_eq!(list.nodes(), nodes, "size {size}");
        list.check();
    }
}

#[test]
fn a_long_queue_keeps_its_order_and_gives_memory_back() {
    let t = thresholds(1);
    let mut list = List::new();
    for i in 0..20_000u32 {
        list.push_back(&i.to_be_bytes(), &t);
    }
    list.check();
    for i in (0..20_000u32).step_by(777) {
        assert_eq!(list.get(i as usize), Some(&i.to_be_bytes()[..]));
    }
    for i in 0..20_000u32 {
        assert_eq!(list.pop_front(), Some(i.to_be_bytes().to_vec()));
    }
    assert_eq!((list.len(), list.heap_bytes(), list.pop_back()), (0, 0, None));
}

#[test]
fn a_list_that_grows_at_an_end_leaves_full_blocks() {
    let t = thresholds(1);
    let (mut back, mut front) = (List::new(), List::new());
    (0..300).for_each(|_| back.push_back(b"v", &t));
    (0..300).for_each(|_| front.push_front(b"v", &t));
    let sizes = |list: &List| match list.word.view() {
        View::Big(nodes) => nodes.block_sizes(),
        View::Small(_) => panic!("many nodes"),
    };
    assert_eq!((sizes(&back), sizes(&front)), (vec![128, 128, 44], vec![44, 128, 128]));
    back.check();
    front.check();
}

#[test]
fn ranges_read_from_both_ends() {
    let t = thresholds(3);
    let mut list = List::new();
    (0..100u8).for_each(|i| list.push_front(&[99 - i], &t));
    let range: Vec<u8> = list.range(10, 15).map(|v| v[0]).collect();
    assert_eq!(range, [10, 11, 12, 13, 14]);
    let back: Vec<u8> = list.range(97, 200).rev().map(|v| v[0]).collect();
    assert_eq!(back, [99, 98, 97]);
    assert_eq!(list.range(5, 5).count() + list.range(100, 200).count() + list.range(7, 3).count(), 0);
    let mut both = list.range(4, 8);
    let met: Vec<u8> =
        [both.next(), both.next_back(), both.next(), both.next_back()].map(|v| v.unwrap()[0]).to_vec();
    assert_eq!((met, both.next()), (vec![4, 7, 5, 6], None));
}

#[derive(Clone, Debug)]
enum Op {
    Insert(usize, usize),
    Set(usize, usize),
    RemoveRange(usize, usize),
    RemoveEqual(u8, i64),
    Trim(usize, usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let place = prop_oneof![Just(0), Just(usize::MAX), any::<usize>()];
    let size = prop_oneof![4 => 1..6usize, 1 => Just(3000usize), 1 => Just(20_000usize)];
    let op = prop_oneof![
        12 => (place.clone(), size.clone()).prop_map(|(i, s)| Op::Insert(i, s)),
        3 => (place.clone(), size).prop_map(|(i, s)| Op::Set(i, s)),
        3 => (place, 0..9usize).prop_map(|(i, n)| Op::RemoveRange(i, n)),
        1 => (0..8u8, -3..4i64).prop_map(|(v, n)| Op::RemoveEqual(v, n)),
        1 => (0..5usize, 0..5usize).prop_map(|(a, b)| Op::Trim(a, b)),
    ];
    prop::collection::vec(op, 1..200)
}

proptest! {
    #[test]
    fn behaves_as_a_vec(size in prop_oneof![Just(-2), Just(-1), 1..5i32], ops in ops()) {
        let t = thresholds(size);
        let (mut list, mut model) = (List::new(), Vec::<Vec<u8>>::new());
        for (n, op) in ops.into_iter().enumerate() {
            let value = |size: usize| vec![(n % 8) as u8; size];
            let clamp = |i: usize, len: usize| if i == usize::MAX { len } else { i % (len + 1) };
            match op {
                Op::Insert(i, s) => {
                    let i = clamp(i, model.len());
                    list.insert(i, &value(s), &t);
                    model.insert(i, value(s));
                }
                Op::Set(i, s) => {
                    let i = clamp(i, model.len());
                    prop_assert_eq!(list.set(i, &value(s), &t), i < model.len());
                    if let Some(v) = model.get_mut(i) { *v = value(s); }
                }
                Op::RemoveRange(i, count) => {
                    let i = clamp(i, model.len());
                    list.remove_range(i, count);
                    model.drain(i..(i + count).min(model.len()));
                }
                Op::RemoveEqual(v, count) => {
                    let gone = list.remove_equal(&[v], count);
                    let max = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
                    let mut found: Vec<usize> = (0..model.len()).filter(|&i| model[i] == [v]).collect();
                    if count < 0 { found.reverse(); }
                    found.truncate(max);
                    found.sort_unstable();
                    prop_assert_eq!(gone, found.len());
                    for &i in found.iter().rev() { model.remove(i); }
                }
                Op::Trim(a, b) => {
                    let end = model.len() - b.min(model.len());
                    list.trim(a, end);
                    model.truncate(end);
                    model.drain(..a.min(end));
                }
            }
            list.check();
            prop_assert_eq!(list.len(), model.len());
            prop_assert!(list.iter().eq(model.iter()));
            prop_assert!(list.iter().rev().eq(model.iter().rev()));
            let middle = model.len() / 2;
            prop_assert_eq!(list.get(middle), model.get(middle).map(|v| &v[..]));
        }
    }
}
