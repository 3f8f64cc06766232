//! The keyspace against a model of BTreeMaps.

use crate::KeyAhead;
use crate::{DbMut, Expiry, Keyspace, Kind, List, Thresholds, Value, ValueMut, ValueRef};
use proptest::prelude::*;
use proto::Slot;
use std::collections::{BTreeMap, BTreeSet};

const MANY: usize = if cfg!(miri) { 300 } else { 20_000 };

fn keyspace() -> Keyspace {
    Keyspace::new(4, [1, 2])
}
fn slot(n: u16) -> Slot {
    Slot::new(n).unwrap()
}
fn key(i: u32) -> Vec<u8> {
    format!("key:{i}").into_bytes()
}
fn set(db: &mut DbMut<'_>, ks: &Keyspace, key: &[u8], value: &[u8], expiry: Expiry) -> bool {
    let is_new = db.get(key, ks.hash(key)).is_none();
    db.set_str(key, ks.hash(key), value, expiry);
    is_new
}
fn text(ks: &Keyspace, s: Slot, db: u16, key: &[u8]) -> Option<Vec<u8>> {
    let guard = ks.lock(s).unwrap();
    let entry = guard.db(db).get(key, ks.hash(key))?;
    match entry.value() {
        ValueRef::Str(bytes) => Some(bytes.to_vec()),
        _ => None,
    }
}
fn scan_all(ks: &Keyspace, s: Slot, db: u16) -> BTreeSet<Vec<u8>> {
    let (mut seen, mut cursor) = (BTreeSet::new(), 0);
    loop {
        cursor = ks.lock(s).unwrap().db(db).scan(cursor, &mut |e| {
            seen.insert(e.key().to_vec());
        });
        if cursor == 0 {
            return seen;
        }
    }
}

#[test]
fn one_slot_grows_and_shrinks_and_gives_all_back() {
    let ks = keyspace();
    let s = slot(7);
    for db in [0, 3] {
        // Warm up the database's fixed parts, then measure.
        let mut guard = ks.lock(s).unwrap();
        set(&mut guard.db_mut(db), &ks, b"x", b"", Expiry::None);
        guard.db_mut(db).delete(b"x", ks.hash(b"x"));
        drop(guard);
        let empty = ks.used_bytes();
        for i in 0..MANY as u32 {
            let mut guard = ks.lock(s).unwrap();
            assert!(set(&mut guard.db_mut(db), &ks, &key(i), &i.to_le_bytes(), Expiry::None));
        }
        assert_eq!(ks.len(db), MANY as u64);
        assert!(ks.used_bytes() - empty > 24 * MANY as u64);
        assert_eq!(scan_all(&ks, s, db).len(), MANY);
        for i in 0..MANY as u32 {
            assert_eq!(text(&ks, s, db, &key(i)).unwrap(), i.to_le_bytes());
        }
        for i in 0..MANY as u32 {
            // Every other from the front, the rest from the back.
            let i = if i % 2 == 0 { i } else { MANY as u32 - (MANY as u32 % 2) - i };
            assert!(ks.lock(s).unwrap().db_mut(db).delete(&key(i), ks.hash(&key(i))), "key {i}");
        }
        assert_eq!((ks.len(db), ks.used_bytes()), (0, empty));
        assert_eq!(ks.next_occupied(db, slot(0)), None);
    }
}

#[test]
fn shrinking_returns_memory_long_before_the_end() {
    let ks = keyspace();
    let s = slot(0);
    // The database's fixed parts come with the first key.
    set(&mut ks.lock(s).unwrap().db_mut(0), &ks, b"x", b"", Expiry::None);
    let before = ks.used_bytes();
    let fill = |n: std::ops::Range<u32>| {
        for i in n {
            set(&mut ks.lock(s).unwrap().db_mut(0), &ks, &key(i), b"v", Expiry::None);
        }
    };
    fill(0..MANY as u32);
    let full = ks.used_bytes() - before;
    for i in 0..MANY as u32 * 9 / 10 {
        ks.lock(s).unwrap().db_mut(0).delete(&key(i), ks.hash(&key(i)));
    }
    // A tenth of the keys in at most a fifth of the memory.
    let left = ks.used_bytes() - before;
    assert!(left < full / 5, "{left} of {full}");
}

#[test]
fn a_taken_table_is_counted_until_it_is_dropped() {
    let ks = keyspace();
    let s = slot(5);
    let mut guard = ks.lock(s).unwrap();
    assert!(guard.db_mut(1).take_table().is_none());
    set(&mut guard.db_mut(1), &ks, b"x", b"", Expiry::None);
    guard.db_mut(1).clear();
    let empty = ks.used_bytes();
    for i in 0..1000 {
        set(&mut guard.db_mut(1), &ks, &key(i), b"v", Expiry::At(5));
    }
    let full = ks.used_bytes();
    let table = guard.db_mut(1).take_table().unwrap();
    assert_eq!((ks.len(1), ks.expires_len(1), ks.used_bytes(), table.len()), (0, 0, full, 1000));
    assert_eq!(guard.db(1).next_expiry(), i64::MAX);
    drop(guard);
    std::thread::spawn(move || drop(table)).join().unwrap();
    assert_eq!(ks.used_bytes(), empty);
}

#[test]
fn due_keys_are_found_and_the_bound_is_renewed() {
    let ks = keyspace();
    let s = slot(100);
    let mut guard = ks.lock(s).unwrap();
    for i in 0..200 {
        let expiry = if i % 2 == 0 { Expiry::At(1000 + i as i64) } else { Expiry::None };
        set(&mut guard.db_mut(0), &ks, &key(i), b"v", expiry);
    }
    assert_eq!((ks.expires_len(0), guard.db(0).next_expiry()), (100, 1000));
    assert_eq!((ks.next_due(0, slot(0), 999), ks.next_due(0, slot(0), 1000)), (None, Some(s)));
    let mut due = Vec::new();
    let next = guard.db(0).collect_due(1099, 0, usize::MAX, &mut |k, _| due.push(k.to_vec()));
    assert_eq!((next, due.len()), (0, 50));
    for k in &due {
        guard.db_mut(0).delete(k, ks.hash(k));
    }
    guard.db(0).collect_due(1099, 0, usize::MAX, &mut |_, _| panic!("all due keys are gone"));
    assert_eq!(guard.db(0).next_expiry(), 1100);
    // In small steps the same keys are found.
    let (mut n, mut cursor) = (0, 0);
    loop {
        cursor = guard.db(0).collect_due(5000, cursor, 1, &mut |_, _| n += 1);
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(n, 50);
    // An expiry set later on a segment that was looked at and found without any is still found.
    guard.db_mut(0).set_expire(&key(1), ks.hash(&key(1)), Some(7));
    let mut found = Vec::new();
    guard.db(0).collect_due(10, 0, usize::MAX, &mut |k, _| found.push(k.to_vec()));
    assert_eq!(found, [key(1)]);
}

#[test]
fn collections_are_accounted_through_every_change() {
    let ks = keyspace();
    let s = slot(9);
    let mut guard = ks.lock(s).unwrap();
    set(&mut guard.db_mut(0), &ks, b"x", b"", Expiry::None);
    guard.db_mut(0).clear();
    let empty = ks.used_bytes();
    let h = ks.hash(b"k");
    assert!(guard.db_mut(0).insert(b"k", h, list(1), Some(4)).is_none());
    for round in 0..100 {
        let mut db = guard.db_mut(0);
        let mut entry = db.get_mut(b"k", h).unwrap();
        // Alone, and before and behind what counts all of the entry.
        if round % 3 == 0 {
            entry.set_expire(Some(4));
        }
        assert!(entry.change(|_: &mut crate::Set| ()).is_none());
        entry.change(grow).expect("a list");
        if round % 3 == 1 {
            match entry.value_mut() {
                ValueMut::List(l) => grow(l),
                _ => panic!("a list"),
            }
        }
    }
    let entry = guard.db(0).get(b"k", h).unwrap();
    assert_eq!((entry.kind(), entry.expire_ms()), (Kind::List, Some(4)));
    assert_eq!(ks.used_bytes() - empty, 64 + entry.bytes() as u64);
    assert!(entry.bytes() > 100);
    // A string over a list, a list over a string, and out.
    assert!(!set(&mut guard.db_mut(0), &ks, b"k", b"v", Expiry::Keep));
    assert_eq!(guard.db(0).get(b"k", h).unwrap().expire_ms(), Some(4));
    assert!(guard.db_mut(0).insert(b"k", h, list(3), None).is_none(), "a string was there");
    let value = guard.db_mut(0).remove(b"k", h).unwrap();
    assert_eq!((value.kind(), ks.used_bytes()), (Kind::List, empty));
}

#[test]
fn encodings_follow_how_a_string_was_written() {
    let ks = keyspace();
    let mut guard = ks.lock(slot(1)).unwrap();
    let h = ks.hash(b"k");
    set(&mut guard.db_mut(0), &ks, b"k", b"12", Expiry::None);
    assert_eq!(guard.db(0).get(b"k", h).unwrap().encoding(), "int");
    assert_eq!(guard.db_mut(0).get_mut(b"k", h).unwrap().append(b"3"), 3);
    assert_eq!(guard.db(0).get(b"k", h).unwrap().encoding(), "raw");
    set(&mut guard.db_mut(0), &ks, b"k", b"abc", Expiry::None);
    assert_eq!(guard.db(0).get(b"k", h).unwrap().encoding(), "embstr");
    guard.db_mut(0).get_mut(b"k", h).unwrap().resize_str(5)[4] = b'!';
    drop(guard);
    assert_eq!(text(&ks, slot(1), 0, b"k").unwrap(), b"abc\0!");
}

#[test]
fn swapped_databases_change_names_only() {
    let ks = keyspace();
    set(&mut ks.lock(slot(3)).unwrap().db_mut(0), &ks, b"k", b"zero", Expiry::None);
    set(&mut ks.lock(slot(3)).unwrap().db_mut(2), &ks, b"k", b"two", Expiry::At(1));
    ks.swap_dbs(0, 2, &ks.gate().close());
    assert_eq!(text(&ks, slot(3), 0, b"k").unwrap(), b"two");
    assert_eq!(text(&ks, slot(3), 2, b"k").unwrap(), b"zero");
    assert_eq!((ks.len(0), ks.expires_len(0), ks.expires_len(2)), (1, 1, 0));
    ks.prefetch(0, &[ks.key_ahead(b"k"), KeyAhead { slot: slot(3), hash: ks.hash(b"k") }]);
}

#[test]
fn locks_exclude_and_a_held_one_is_not_waited_for() {
    let ks = keyspace();
    let guard = ks.lock(slot(0)).unwrap();
    assert!(ks.try_lock(slot(0)).is_none() && ks.lock(slot(0)).is_none());
    ks.prefetch(0, &[KeyAhead { slot: slot(0), hash: 1 }]);
    assert!(ks.try_lock(slot(1)).is_some());
    drop(guard);
    let turns = if cfg!(miri) { 50 } else { 20_000 };
    std::thread::scope(|scope| {
        for t in 0..2u8 {
            let ks = &ks;
            scope.spawn(move || {
                for i in 0..turns {
                    let mut guard = ks.lock_wait(slot(0));
                    guard.state_mut().writes += 1;
                    let k = key(i % 100);
                    let mut db = guard.db_mut(0);
                    let grown = db.get_mut(&k, ks.hash(&k)).is_some_and(|mut e| {
                        let small = e.read().bytes() < 200;
                        if small {
                            e.append(&[t]);
                        }
                        small
                    });
                    if !grown && !db.delete(&k, ks.hash(&k)) {
                        db.set_str(&k, ks.hash(&k), b"", Expiry::None);
                    }
                }
            });
        }
    });
    assert_eq!(ks.lock(slot(0)).unwrap().state().writes, 2 * turns);
    assert_eq!(ks.len(0), scan_all(&ks, slot(0), 0).len() as u64);
}

fn list(n: usize) -> Value {
    let mut l = List::default();
    (0..n).for_each(|_| grow(&mut l));
    Value::List(l)
}

#[derive(Clone, Debug)]
enum Op {
    Set(u32, usize, Option<i64>),
    SetKeep(u32, usize),
    Insert(u32, usize),
    Append(u32, usize),
    Resize(u32, usize),
    Expire(u32, Option<i64>),
    Delete(u32),
    DeleteMany(u32, u32),
    SetMany(u32, u32),
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![0..80usize, 0..80usize, 900..1300usize, Just(66_000usize)];
    let expire = proptest::option::of(0..1000i64);
    prop_oneof![
        8 => (0..500u32, len.clone(), expire.clone()).prop_map(|(k, n, e)| Op::Set(k, n, e)),
        2 => (0..500u32, len.clone()).prop_map(|(k, n)| Op::SetKeep(k, n)),
        2 => (0..500u32, 1..5usize).prop_map(|(k, n)| Op::Insert(k, n)),
        2 => (0..500u32, 0..90usize).prop_map(|(k, n)| Op::Append(k, n)),
        2 => (0..500u32, len).prop_map(|(k, n)| Op::Resize(k, n)),
        3 => (0..500u32, expire).prop_map(|(k, e)| Op::Expire(k, e)),
        4 => (0..500u32).prop_map(Op::Delete),
        1 => (0..500u32, 0..400u32).prop_map(|(k, n)| Op::DeleteMany(k, n)),
        2 => (0..500u32, 0..400u32).prop_map(|(k, n)| Op::SetMany(k, n)),
        1 => Just(Op::Clear),
    ]
}

/// What the model holds: the bytes of a string or the length of a list.
type Model = BTreeMap<u32, (Result<Vec<u8>, usize>, Option<i64>)>;

fn apply(ks: &Keyspace, s: Slot, model: &mut Model, op: &Op) {
    let mut guard = ks.lock(s).unwrap();
    let mut db = guard.db_mut(1);
    let fill = |k: u32, n: usize| vec![(k as usize + n) as u8; n];
    match *op {
        Op::Set(k, n, e) => {
            let expiry = e.map_or(Expiry::None, Expiry::At);
            let new = set(&mut db, ks, &key(k), &fill(k, n), expiry);
            assert_eq!(new, model.insert(k, (Ok(fill(k, n)), e)).is_none());
        }
        Op::SetKeep(k, n) => {
            set(&mut db, ks, &key(k), &fill(k, n), Expiry::Keep);
            let e = model.get(&k).and_then(|v| v.1);
            model.insert(k, (Ok(fill(k, n)), e));
        }
        Op::Insert(k, n) => {
            db.insert(&key(k), ks.hash(&key(k)), list(n), None);
            model.insert(k, (Err(n), None));
        }
        Op::Append(k, n) => {
            if let (Some(mut e), Some((Ok(old), _))) =
                (db.get_mut(&key(k), ks.hash(&key(k))), model.get_mut(&k))
            {
                old.extend(fill(k, n));
                assert_eq!(e.append(&fill(k, n)), old.len());
            }
        }
        Op::Resize(k, n) => {
            if let (Some(mut e), Some((Ok(old), _))) =
                (db.get_mut(&key(k), ks.hash(&key(k))), model.get_mut(&k))
            {
                old.resize(n, 0);
                assert_eq!(e.resize_str(n), &old[..]);
            }
        }
        Op::Expire(k, e) => {
            let there = db.set_expire(&key(k), ks.hash(&key(k)), e);
            assert_eq!(there, model.contains_key(&k));
            model.entry(k).and_modify(|v| v.1 = e);
        }
        Op::Delete(k) => {
            let gone = db.remove(&key(k), ks.hash(&key(k)));
            assert_eq!(gone.is_some(), model.remove(&k).is_some());
        }
        Op::DeleteMany(k, n) => {
            for k in k..k + n {
                assert_eq!(db.delete(&key(k), ks.hash(&key(k))), model.remove(&k).is_some());
            }
        }
        Op::SetMany(k, n) => {
            for k in k..k + n {
                set(&mut db, ks, &key(k), b"many", Expiry::None);
                model.insert(k, (Ok(b"many".to_vec()), None));
            }
        }
        Op::Clear => {
            db.clear();
            model.clear();
        }
    }
}

fn check(ks: &Keyspace, s: Slot, model: &Model) {
    let guard = ks.lock(s).unwrap();
    let db = guard.db(1);
    assert_eq!(db.len(), model.len() as u64);
    assert_eq!(ks.len(1), model.len() as u64);
    assert_eq!(ks.expires_len(1), model.values().filter(|v| v.1.is_some()).count() as u64);
    assert_eq!(db.expires_len(), ks.expires_len(1));
    assert!(model.values().filter_map(|v| v.1).all(|at| at >= db.next_expiry()));
    for k in 0..900 {
        let entry = db.get(&key(k), ks.hash(&key(k)));
        let got = entry.map(|e| {
            let value = match e.value() {
                ValueRef::Str(bytes) => Ok(bytes.to_vec()),
                ValueRef::List(l) => Err(l.len()),
                _ => panic!("neither string nor list"),
            };
            (value, e.expire_ms())
        });
        assert_eq!(got.as_ref(), model.get(&k), "key {k}");
    }
    assert_eq!(db.sample(0x1234_5678_9ABC_DEF0).is_some(), !model.is_empty());
    assert_eq!(ks.next_occupied(1, slot(0)), (!model.is_empty()).then_some(s));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 64 }, ..ProptestConfig::default() })]

    #[test]
    fn table_agrees_with_the_model(ops in prop::collection::vec(op(), 1..200)) {
        let ks = keyspace();
        let s = slot(16383);
        set(&mut ks.lock(s).unwrap().db_mut(1), &ks, b"x", b"", Expiry::None);
        ks.lock(s).unwrap().db_mut(1).clear();
        let empty = ks.used_bytes();
        let mut model = Model::new();
        for op in &ops {
            apply(&ks, s, &mut model, op);
        }
        check(&ks, s, &model);
        for k in model.keys() {
            ks.lock(s).unwrap().db_mut(1).delete(&key(*k), ks.hash(&key(*k)));
        }
        prop_assert_eq!(ks.used_bytes(), empty);
    }

    #[test]
    fn a_scan_sees_all_that_stays(ops in prop::collection::vec(op(), 1..60), keep in 100..900u32, between in 1..8usize) {
        let ks = keyspace();
        let s = slot(42);
        // Keys from 10000 on are never touched by the operations below.
        for k in 0..keep {
            set(&mut ks.lock(s).unwrap().db_mut(1), &ks, &key(10_000 + k), b"", Expiry::None);
        }
        let (mut seen, mut cursor, mut ops, mut model) = (BTreeSet::new(), 0, ops.iter().cycle(), Model::new());
        loop {
            cursor = ks.lock(s).unwrap().db(1).scan(cursor, &mut |e| { seen.insert(e.key().to_vec()); });
            prop_assert!(cursor < 1 << 48);
            if cursor == 0 {
                break;
            }
            for _ in 0..between {
                let op = ops.next().unwrap();
                if !matches!(op, Op::Clear) {
                    apply(&ks, s, &mut model, op);
                }
            }
        }
        for k in 0..keep {
            prop_assert!(seen.contains(&key(10_000 + k)));
        }
    }
}

fn grow(l: &mut List) {
    l.push_back(b"element", &Thresholds::default());
}

#[test]
#[cfg_attr(any(miri, shoal_checked_alloc), ignore = "there are no spans")]
fn keys_survive_the_emptying_of_their_spans() {
    let _whole = crate::slab::tests::WHOLE.lock();
    let ks = keyspace();
    let value = |i: u32| vec![i as u8; [40, 300, 5000][i as usize % 3]];
    let expiry = |i: u32| if i.is_multiple_of(5) { Expiry::At(i64::MAX - 1) } else { Expiry::None };
    for i in 0..30_000 {
        let mut guard = ks.lock_wait(slot(7));
        set(&mut guard.db_mut(0), &ks, &key(i), &value(i), expiry(i));
    }
    for i in (0..30_000).filter(|i| i % 4 != 0) {
        let mut guard = ks.lock_wait(slot(7));
        assert!(guard.db_mut(0).delete(&key(i), ks.hash(&key(i))));
    }
    let (bytes, before) = (ks.used_bytes(), crate::slab::usage().span_bytes);
    assert!(crate::slab::begin_compaction() > 0);
    let mut cursor = 0;
    loop {
        cursor = ks.lock_wait(slot(7)).db_mut(0).leave_spans(cursor);
        if cursor == 0 {
            break;
        }
    }
    crate::slab::end_compaction();
    assert_eq!(ks.used_bytes(), bytes);
    assert!(crate::slab::usage().span_bytes < before, "spans were given back");
    for i in (0..30_000).step_by(4) {
        assert_eq!(text(&ks, slot(7), 0, &key(i)), Some(value(i)));
    }
    assert_eq!(scan_all(&ks, slot(7), 0).len(), 7500);
}

#[test]
fn hashes_with_fields_that_expire_are_counted_and_found() {
    use crate::{Due, Hash, Thresholds};
    let (ks, t) = (keyspace(), Thresholds::default());
    let mut guard = ks.lock(slot(100)).unwrap();
    let k = key(1);
    let hash = ks.hash(&k);
    let expiring = || {
        let mut h = Hash::new();
        h.set(b"f", b"v", &t);
        h.set_expiry(b"f", Some(500), &t);
        Value::Hash(h)
    };
    guard.db_mut(0).insert(&k, hash, expiring(), None);
    assert_eq!((ks.field_expires_len(0), ks.expires_len(0), guard.db(0).next_expiry()), (1, 0, 500));
    let mut found = Vec::new();
    guard.db(0).collect_due(499, 0, usize::MAX, &mut |_, _| panic!("nothing is due"));
    guard.db(0).collect_due(500, 0, usize::MAX, &mut |k, due| found.push((k.to_vec(), due)));
    assert_eq!(found, [(k.clone(), Due::Fields)]);
    let mut set_time = |at| {
        let mut db = guard.db_mut(0);
        let mut entry = db.get_mut(&k, hash).unwrap();
        assert_eq!(entry.change(|h: &mut Hash| h.set_expiry(b"f", at, &t)), Some(true));
    };
    set_time(None);
    assert_eq!(ks.field_expires_len(0), 0);
    set_time(Some(70));
    assert_eq!(ks.field_expires_len(0), 1);
    assert_eq!(guard.db(0).next_expiry(), 70);
    guard.db_mut(0).set_str(&k, hash, b"v", Expiry::None);
    assert_eq!(ks.field_expires_len(0), 0);
    guard.db_mut(0).insert(&k, hash, expiring(), None);
    assert!(guard.db_mut(0).delete(&k, hash));
    let empty = ks.used_bytes();
    assert_eq!(ks.field_expires_len(0), 0);
    guard.db_mut(0).insert(&k, hash, expiring(), None);
    drop(guard.db_mut(0).take_table());
    assert_eq!((ks.field_expires_len(0), ks.used_bytes()), (0, empty));
}
