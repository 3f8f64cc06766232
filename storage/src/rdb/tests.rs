//! Round trips of all kinds and sizes, files made by Redis, and damaged files.

use super::*;
use crate::stream::{Group, Pending};
use crate::value::{Value, ValueRef};
use crate::{Hash, List, Set, Stream, StreamId, Thresholds, ZSet};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A value in a form to compare.
#[derive(Clone, PartialEq, Debug)]
enum Plain {
    Str(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(Vec<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    ZSet(Vec<(Vec<u8>, f64)>),
    Stream(PlainStream),
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A stream in a form to compare: all that every type of stream in RDB keeps.
#[derive(Clone, PartialEq, Debug, Default)]
struct PlainStream {
    entries: Vec<(StreamId, Fields)>,
    last: StreamId,
    groups: Vec<PlainGroup>,
}

#[derive(Clone, PartialEq, Debug, Default)]
struct PlainGroup {
    name: Vec<u8>,
    last: StreamId,
    /// Id, owner, time of delivery, deliveries.
    pending: Vec<(StreamId, Vec<u8>, i64, u64)>,
    /// Name, time seen.
    consumers: Vec<(Vec<u8>, i64)>,
}

fn plain_stream(stream: &Stream) -> PlainStream {
    let fields =
        |e: crate::stream::Entry<'_>| (e.id, e.fields.map(|(n, v)| (n.to_vec(), v.to_vec())).collect());
    let group = |(name, group): (&[u8], &Group)| PlainGroup {
        name: name.to_vec(),
        last: group.last_id,
        pending: group
            .pending_from(StreamId::MIN)
            .map(|(id, p)| (id, group.by_id(p.owner).name().to_vec(), p.delivered_ms, p.deliveries))
            .collect(),
        consumers: group.consumers().map(|c| (c.name().to_vec(), c.seen_ms)).collect(),
    };
    PlainStream {
        entries: stream.log.range(StreamId::MIN, StreamId::MAX).map(fields).collect(),
        last: stream.log.last_id,
        groups: stream.groups().map(group).collect(),
    }
}

fn build_stream(plain: &PlainStream) -> Stream {
    let mut stream = Stream::new();
    for (id, fields) in &plain.entries {
        let pairs: Vec<&[u8]> = fields.iter().flat_map(|(n, v)| [&n[..], &v[..]]).collect();
        stream.log.append(*id, &pairs, &Thresholds::default());
    }
    stream.log.last_id = plain.last;
    for g in &plain.groups {
        let mut group = Group::new(g.last, None);
        for (name, seen_ms) in &g.consumers {
            group.add_consumer(name, *seen_ms).unwrap();
        }
        for (id, owner, delivered_ms, deliveries) in &g.pending {
            let owner = group.find(owner).unwrap();
            group.assign(*id, Pending { owner, delivered_ms: *delivered_ms, deliveries: *deliveries });
        }
        assert!(stream.add_group(&g.name, group));
    }
    stream
}

fn sample_stream(count: u64, is_mixed: bool) -> PlainStream {
    let id = |n: u64| StreamId::new(1_700_000_000_000 + n / 3, n % 3 * 1000);
    let fields = |n: u64| match is_mixed && n.is_multiple_of(5) {
        true => vec![(b"own".to_vec(), vec![b'o'; 70]), (b"7".to_vec(), b"".to_vec())],
        false => vec![(b"temp".to_vec(), n.to_string().into()), (b"hum".to_vec(), b"-12".to_vec())],
    };
    let pending = (1..count / 2).map(|n| {
        let owner = if n % 2 == 0 { b"alice" } else { b"bobby" };
        (id(n), owner.to_vec(), 1_700_000_100_000 + n as i64, n)
    });
    let consumers = ["alice", "bobby", "idle"].map(|n| (n.as_bytes().to_vec(), 77)).to_vec();
    let group = PlainGroup { name: b"g".into(), last: id(count / 2), pending: pending.collect(), consumers };
    PlainStream {
        entries: (0..count).map(|n| (id(n), fields(n))).collect(),
        last: id(count + 10),
        groups: vec![group, PlainGroup { name: b"other".into(), ..PlainGroup::default() }],
    }
}

fn plain(value: ValueRef<'_>) -> Plain {
    match value {
        ValueRef::Str(bytes) => Plain::Str(bytes.to_vec()),
        ValueRef::List(list) => Plain::List(list.iter().map(<[u8]>::to_vec).collect()),
        ValueRef::Set(set) => {
            let mut members: Vec<Vec<u8>> = set.iter().map(|m| m.to_vec()).collect();
            members.sort();
            Plain::Set(members)
        }
        ValueRef::Hash(hash) => Plain::Hash(hash.iter().map(|(f, v)| (f.to_vec(), v.to_vec())).collect()),
        ValueRef::ZSet(zset) => Plain::ZSet(zset.iter().map(|(m, s)| (m.to_vec(), s)).collect()),
        ValueRef::Stream(stream) => Plain::Stream(plain_stream(stream)),
    }
}

fn build(plain: &Plain) -> Value {
    let t = &Thresholds::default();
    match plain {
        Plain::Str(bytes) => Value::str(bytes),
        Plain::List(elements) => {
            let mut list = List::new();
            elements.iter().for_each(|e| list.push_back(e, t));
            Value::List(list)
        }
        Plain::Set(members) => {
            let mut set = Set::new();
            members.iter().for_each(|m| assert!(set.insert(m, t)));
            Value::Set(set)
        }
        Plain::Hash(fields) => {
            let mut hash = Hash::new();
            fields.iter().for_each(|(f, v)| assert!(hash.set(f, v, t)));
            Value::Hash(hash)
        }
        Plain::ZSet(members) => {
            let mut zset = ZSet::new();
            members.iter().for_each(|(m, s)| assert!(zset.insert(m, *s, t).is_none()));
            Value::ZSet(zset)
        }
        Plain::Stream(plain) => Value::Stream(Box::new(build_stream(plain))),
    }
}

fn numbered(n: usize, len: usize) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..n).map(|i| format!("{i:0len$}x").into_bytes()).collect();
    all.sort();
    all
}

/// Values in all encodings.
fn samples() -> Vec<Plain> {
    let scored =
        |n: usize| numbered(n, 3).into_iter().enumerate().map(|(i, m)| (m, i as f64 / 3.0)).collect();
    let fields = |n: usize, len| numbered(n, len).into_iter().map(|f| (f.clone(), f)).collect();
    vec![
        Plain::Str(b"".into()),
        Plain::Str(b"-129".into()),
        Plain::Str(b"2147483648".into()),
        Plain::Str(vec![b'z'; 100_000]),
        Plain::List(numbered(3, 2)),
        Plain::List(numbered(5000, 9)),
        Plain::List(vec![vec![b'l'; 20_000], b"7".into(), vec![b'm'; 8_185]]),
        Plain::Set(vec![b"-1".into(), b"5".into()]),
        Plain::Set(vec![b"-9223372036854775808".into(), b"5".into()]),
        Plain::Set(vec![b"70000".into(), b"a".into()]),
        Plain::Set(numbered(2000, 4)),
        Plain::Hash(fields(5, 2)),
        Plain::Hash(fields(5, 100)),
        Plain::Hash(fields(3000, 3)),
        Plain::ZSet(vec![
            (b"a".into(), f64::NEG_INFINITY),
            (b"b".into(), -1.5e300),
            (b"c".into(), 1e-200),
            (b"d".into(), 3.0),
            (b"e".into(), 9_007_199_254_740_993.0),
            (b"f".into(), f64::INFINITY),
        ]),
        Plain::ZSet(scored(50)),
        Plain::ZSet(scored(1000)),
        Plain::Stream(PlainStream::default()),
        Plain::Stream(sample_stream(5, false)),
        Plain::Stream(sample_stream(500, true)),
    ]
}

fn file(records: &[(u16, Vec<u8>, Plain, Option<i64>)], format: Format) -> Vec<u8> {
    let mut writer = RdbWriter::new(format);
    let mut out = Vec::new();
    writer.header(&[(b"redis-ver", b"7.0.15"), (b"redis-bits", b"64")], &mut out);
    writer.function(b"#!lua name=f\n", &mut out);
    for (db, key, value, expire) in records {
        let mut record = Vec::new();
        write_record(&mut record, &format, key, build(value).as_ref(), *expire, Access::IdleSeconds(70_000));
        writer.records(*db, &record, &mut out);
    }
    writer.finish(&mut out);
    out
}

type Keys = Vec<(u16, Vec<u8>, Plain, Option<i64>)>;

/// Loads a file in pieces of `step` bytes.
fn load_all(bytes: &[u8], step: usize) -> Result<(Keys, usize), RdbError> {
    let mut decoder = Decoder::new(LoadOptions::default());
    let (mut keys, mut others) = (Vec::new(), 0);
    let mut take = |event| match event {
        Event::Key(r) => keys.push((r.db as u16, r.key, plain(r.value.as_ref()), r.expire_ms)),
        _ => others += 1,
    };
    for piece in bytes.chunks(step) {
        decoder.push(piece);
        while let Some(event) = decoder.next()? {
            take(event);
        }
    }
    while let Some(event) = decoder.next_at_end()? {
        take(event);
    }
    Ok((keys, others))
}

fn sample_records() -> Keys {
    let expire = |i: usize| i.is_multiple_of(2).then_some(1_700_000_000_000 + i as i64);
    samples()
        .into_iter()
        .enumerate()
        .map(|(i, v)| ((i % 3) as u16, format!("key{i}").into(), v, expire(i)))
        .collect()
}

/// Equality whose failure does not print megabytes.
fn assert_same(left: &[(u16, Vec<u8>, Plain, Option<i64>)], right: &[(u16, Vec<u8>, Plain, Option<i64>)]) {
    assert_eq!(left.len(), right.len());
    for (l, r) in left.iter().zip(right) {
        assert_eq!((l.0, &l.1, l.3), (r.0, &r.1, r.3));
        assert!(l.2 == r.2, "value of {}", String::from_utf8_lossy(&l.1));
    }
}

#[test]
fn every_encoding_survives_in_every_version() {
    let records = sample_records();
    for version in 9..=12 {
        for compress in [false, true] {
            let format = Format { version, compress, checksum: true };
            let (keys, others) = load_all(&file(&records, format), 50_000).unwrap();
            assert_same(&keys, &records);
            // Header, two fields, the end, and from 10 on the function.
            assert_eq!(others, if version >= 10 { 5 } else { 4 });
        }
    }
}

#[test]
fn pieces_of_any_size_give_the_same() {
    let records = &sample_records()[..9];
    let bytes = file(records, Format::default());
    for step in [1, 7, 1000, bytes.len()] {
        assert_same(&load_all(&bytes, step).unwrap().0, records);
    }
}

#[test]
fn a_cut_file_is_truncated_and_a_changed_one_has_a_wrong_checksum() {
    let bytes = file(&sample_records()[..5], Format { compress: false, ..Format::default() });
    for cut in 0..bytes.len() {
        if cut < 2000 || cut % 1000 == 0 || cut + 20 > bytes.len() {
            assert!(matches!(load_all(&bytes[..cut], 4096), Err(RdbError::Truncated { .. })), "cut at {cut}");
        }
    }
    let mut other = bytes.clone();
    let at = bytes.windows(5).position(|w| w == b"zzzzz").unwrap();
    other[at] = b'y';
    assert!(matches!(load_all(&other, 4096), Err(RdbError::Checksum { .. })));
    let n = other.len();
    other[n - 8..].fill(0);
    assert!(load_all(&other, 4096).is_ok(), "a checksum of zero is none");
}

#[test]
fn bytes_behind_the_end_are_left() {
    let mut bytes = file(&sample_records()[..3], Format::default());
    bytes.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
    let mut keys = 0;
    let decoder = load::<RdbError>(&mut &bytes[..], LoadOptions::default(), &mut |e| {
        keys += matches!(e, Event::Key(_)) as usize;
        Ok(())
    })
    .unwrap();
    assert_eq!((keys, decoder.rest()), (3, &b"*1\r\n$4\r\nPING\r\n"[..]));
}

#[test]
fn dump_and_restore() {
    let t = Thresholds::default();
    for sample in samples() {
        let payload = dump(build(&sample).as_ref(), &Format::default());
        assert!(plain(restore(&payload, &t).unwrap().as_ref()) == sample);
        let mut other = payload.clone();
        other[1] ^= 1;
        assert!(matches!(restore(&other, &t), Err(RdbError::Checksum { .. })));
    }
    // What Redis 7.0.15 answers to DUMP of the string "10".
    let payload = b"\x00\xc0\x0a\x0a\x00\x6e\x9f\x57\x45\x0e\xae\x63\xbb";
    assert_eq!(dump(ValueRef::Str(b"10"), &Format::default()), payload);
    assert!(restore(b"", &t).is_err() && restore(&[0; 10], &t).is_err());
}

/// Every key of a file that Redis 7.0.15 wrote, as `fixtures/make.sh` filled it.
#[test]
fn a_file_of_redis() {
    for bytes in [
        &include_bytes!("../../fixtures/redis-7.0.rdb")[..],
        include_bytes!("../../fixtures/redis-7.0-plain.rdb"),
    ] {
        let (keys, _) = load_all(bytes, 777).unwrap();
        let find = |key: &str| &keys.iter().find(|k| k.1 == key.as_bytes()).unwrap().2;
        assert_eq!(keys.len(), 18);
        assert_eq!(find("str:int8"), &Plain::Str(b"-5".into()));
        assert_eq!(find("str:int64"), &Plain::Str(b"9223372036854775807".into()));
        assert_eq!(find("str:long"), &Plain::Str(b"shoal".repeat(100)));
        let small: Vec<Vec<u8>> = ["a", "-3", "70000", "5000000000"].map(|e| e.into()).into();
        assert_eq!(find("list:small"), &Plain::List(small));
        let Plain::List(big) = find("list:big") else { panic!("a list") };
        assert_eq!((big.len(), &big[2999][..]), (3000, &b"element:2999"[..]));
        assert_eq!(find("set:int16"), &Plain::Set(vec![b"-2".into(), b"1".into(), b"3".into()]));
        assert!(
            matches!(find("set:int64"), Plain::Set(s) if s.len() == 3 && s.contains(&b"5000000000".to_vec()))
        );
        assert!(matches!(find("set:big"), Plain::Set(s) if s.len() == 1000));
        assert!(matches!(find("hash:small"), Plain::Hash(h) if h.len() == 3 && h[&b"f1"[..]] == b"v1"));
        assert!(matches!(find("hash:long"), Plain::Hash(h) if h[&b"f"[..]] == [b'x'; 200]));
        assert!(matches!(find("hash:big"), Plain::Hash(h) if h.len() == 1000 && h[&b"f999"[..]] == b"999"));
        let scores = vec![
            (b"lo".to_vec(), f64::NEG_INFINITY),
            (b"x".to_vec(), 1.5),
            (b"y".to_vec(), 2.0),
            (b"z".to_vec(), 1e300),
            (b"hi".to_vec(), f64::INFINITY),
        ];
        assert_eq!(find("zset:small"), &Plain::ZSet(scores));
        assert!(
            matches!(find("zset:big"), Plain::ZSet(z) if z.len() == 1000 && z[999] == (b"m999".to_vec(), 999.25))
        );
        let other = keys.iter().find(|k| k.1 == b"other:db").unwrap();
        assert_eq!((other.0, other.3), (5, Some(4_102_444_800_123)));
    }
}

#[test]
fn claimed_lengths_reserve_nothing() {
    // A list of 2^64-1 elements, a string of 4 GiB, and a compressed string that claims 4 GiB.
    for body in [
        &b"\x01\x81\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"\x00\x80\xff\xff\xff\xff",
        b"\x00\xc3\x05\x80\xff\xff\xff\xffabcde",
    ] {
        let mut payload = body.to_vec();
        payload.extend_from_slice(&[10, 0]);
        payload.extend_from_slice(&crate::crc64(0, &payload).to_le_bytes());
        let error = restore(&payload, &Thresholds::default()).err().unwrap();
        assert!(!matches!(error, RdbError::Checksum { .. }), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_an_error_or_another_value_but_never_a_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        step in 1..5000usize,
        compress in any::<bool>(),
    ) {
        let records: Vec<_> = sample_records().into_iter().filter(|r| match &r.2 {
            Plain::Str(s) => s.len() < 1000,
            Plain::List(l) => l.len() < 100,
            Plain::Set(s) => s.len() < 100,
            Plain::Hash(h) => h.len() < 100,
            Plain::ZSet(z) => z.len() < 100,
            Plain::Stream(_) => true,
        }).collect();
        let mut bytes = file(&records, Format { checksum: false, compress, ..Format::default() });
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
        }
        if let Ok((keys, _)) = load_all(&bytes, step) {
            prop_assert!(keys.len() <= 2 * records.len() + 100);
        }
    }
}

/// Streams that Redis 7.0.15 (type 19) and Redis 8.0 (type 21) wrote, as `fixtures/make_streams.sh` filled them.
#[test]
fn streams_of_redis() {
    for bytes in [
        &include_bytes!("../../fixtures/redis-7.0-streams.rdb")[..],
        include_bytes!("../../fixtures/redis-8.0-streams.rdb"),
    ] {
        let mut streams = BTreeMap::new();
        load::<RdbError>(&mut &bytes[..], LoadOptions::default(), &mut |event| {
            if let Event::Key(record) = event
                && let Value::Stream(stream) = record.value
            {
                streams.insert(record.key, stream);
            }
            Ok(())
        })
        .unwrap();
        let (id, s) = (StreamId::new, &streams[&b"s"[..]]);
        assert_eq!((s.log.len(), s.log.entries_added, s.log.first_id()), (55, 60, id(1, 3)));
        assert_eq!((s.log.last_id, s.log.max_deleted_id), (id(20, 60), id(20, 60)));
        let plain = plain_stream(s);
        let own: Fields =
            [("own", "text7"), ("5", ""), ("last", "x")].map(|(n, v)| (n.into(), v.into())).into();
        assert_eq!(plain.entries[4], (id(2, 7), own));
        assert_eq!(plain.entries[5].1[0], (b"temp".to_vec(), b"8000".to_vec()));
        let readers = &plain.groups[1];
        assert_eq!(
            (&readers.name[..], readers.last, readers.pending.len()),
            (&b"readers"[..], id(5, 17), 13)
        );
        assert_eq!((readers.pending[0].0, &readers.pending[0].1[..]), (id(1, 5), &b"alice"[..]));
        let names: Vec<&[u8]> = readers.consumers.iter().map(|c| &c.0[..]).collect();
        assert_eq!(names, [&b"alice"[..], b"bob", b"idle"]);
        assert_eq!(s.group(b"late").unwrap().entries_read, Some(55));
        let empty = &streams[&b"empty"[..]].log;
        assert_eq!((empty.len(), empty.last_id, empty.max_deleted_id), (0, id(9, 9), id(8, 8)));
        assert_eq!(empty.entries_added, 7);
    }
}

/// A stream whose parts contradict each other is refused, whatever the checksum says.
#[test]
fn broken_streams() {
    let pack = |items: &[i64]| {
        let mut writer = listpack::Writer::new();
        items.iter().for_each(|i| writer.push_int(*i));
        writer.finish()
    };
    let restore_with = |blocks: &[Vec<u8>], rest: &[u8]| {
        let mut payload = vec![kind::STREAM_2, blocks.len() as u8];
        for (n, block) in blocks.iter().enumerate() {
            payload.push(16);
            payload.extend_from_slice(&StreamId::new(1, 10 * n as u64).to_be_bytes());
            payload.push(block.len() as u8);
            payload.extend_from_slice(block);
        }
        payload.extend_from_slice(rest);
        payload.extend_from_slice(&[10, 0]);
        payload.extend_from_slice(&crate::crc64(0, &payload).to_le_bytes());
        restore(&payload, &Thresholds::default())
    };
    // One entry 1-1 with field 7 and value 8; then length, last id, first id, deleted id, added, no groups.
    let good = pack(&[1, 0, 1, 7, 0, 2, 0, 1, 8, 4]);
    let rest = [1, 1, 1, 1, 1, 0, 0, 1, 0];
    assert!(restore_with(std::slice::from_ref(&good), &rest).is_ok());
    for (blocks, rest) in [
        (vec![good.clone()], &[2, 1, 1, 1, 1, 0, 0, 1, 0][..]),
        (vec![good.clone()], &[1, 1, 0, 1, 1, 0, 0, 1, 0]),
        (vec![good.clone()], &[1, 1, 1, 1, 1, 0, 0, 1, 9]),
        (vec![pack(&[1, 0, 1, 7, 0, 2, 0, 1, 8, 5])], &rest),
        (vec![pack(&[2, 0, 1, 7, 0, 2, 0, 1, 8, 4])], &rest),
        (vec![pack(&[1, 0, -1, 0, 2, 0, 1, 8, 4])], &rest),
        (vec![pack(&[1, 0, 1 << 40, 0, 2, 0, 1, 8, 4])], &rest),
        (vec![pack(&[i64::MAX, i64::MAX, 0, 0])], &rest),
        (vec![pack(&[1, 0, 1, 7, 0, 0, 0, 1, i64::MAX, 8, 4])], &rest),
        (vec![pack(&[1, 0, 1, 7, 0, 2, 0, 0, 8, 4]), pack(&[1, 0, 1, 7, 0, 2, 0, -10, 8, 4])], &rest),
        // A group whose one pending entry has no owner.
        (
            vec![good.clone()],
            &[
                1, 1, 1, 1, 1, 0, 0, 1, 1, 1, b'g', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0,
            ],
        ),
    ] {
        assert!(restore_with(&blocks, rest).is_err(), "{blocks:?} {rest:?}");
    }
}

/// What Redis 8.0.6 DUMPs for hashes of which some fields expire, in both of its forms.
#[test]
fn hashes_of_redis_with_fields_that_expire() {
    let packed = b"\x19\x00\xd8\xc3,\xbb\x03\x00\x00,,\x00\x00\x00\t\x00\x81b\x02\x02\x01\xf4\x00\xd8\xc3,\xbb\x03\x00\x00\t\
        \x81c\x02\x03\x01\xf4\xf4\xd9\xc3,\xbb\x03\x00\x00\t\x81a\x02\x01\x01\x00\x01\xff\x0c\x00N\x85(\x1b\xc0`.\xf4";
    let table = b"\x18\x00\xd8\xc3,\xbb\x03\x00\x00\x04A\xf5\x01c\xc0\x03\x00\x01d\xc0\x04\x01\x01b\xc0\x02\x00\x01a\xc0\x01\
        \x0c\x00\xab\x02\x8b\xe7*\x06\xaa\x7f";
    for payload in [&packed[..], table] {
        let value = restore(payload, &Thresholds::default()).unwrap();
        let ValueRef::Hash(hash) = value.as_ref() else { panic!("a hash") };
        assert_eq!(hash.get(b"c"), Some(&b"3"[..]));
        assert_eq!((hash.expiry(b"a"), hash.expiry(b"b")), (None, Some(4_102_444_800_000)));
        assert_eq!(hash.expiry(b"c"), Some(4_102_444_800_500));
        for version in [9, 10, 11, 12] {
            let again = dump(value.as_ref(), &Format { version, ..Format::default() });
            let again = restore(&again, &Thresholds::default()).unwrap();
            let ValueRef::Hash(again) = again.as_ref() else { panic!("a hash") };
            assert!(hash.iter().all(|(f, v)| again.get(f) == Some(v) && again.expiry(f) == hash.expiry(f)));
            assert_eq!(again.len(), hash.len());
        }
    }
}

#[test]
fn a_field_expiry_out_of_range_is_refused() {
    for time in [u64::MAX, 1 << 50] {
        let mut payload = b"\x18\x00\x00\x00\x00\x00\x00\x00\x00\x01\x81".to_vec();
        payload.extend_from_slice(&time.to_be_bytes());
        payload.extend_from_slice(b"\x01f\x01v\x0c\x00");
        payload.extend_from_slice(&crate::crc64(0, &payload).to_le_bytes());
        assert!(matches!(restore(&payload, &Thresholds::default()), Err(RdbError::Corrupt { .. })));
    }
}
