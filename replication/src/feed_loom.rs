//! The feed under loom: no wake-up is lost, units stay whole, and the end is never ahead of what can be read.

#![cfg(test)]

use super::*;
use loom::thread::spawn;

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

fn flag() -> Arc<Flag> {
    Arc::new(Flag(AtomicBool::new(false)))
}

fn feed() -> Arc<Feed> {
    Arc::new(Feed::new(Offset(0), 1000))
}

fn all(pieces: Vec<Bytes>) -> Vec<u8> {
    pieces.concat()
}

#[test]
fn loom_a_waiting_reader_is_woken_or_sees_the_bytes() {
    loom::model(|| {
        let (feed, flag) = (feed(), flag());
        let reader = feed.attach_at_end(Keep::All, flag.clone());
        let writer = feed.clone();
        let thread = spawn(move || writer.append_stream(b"abc", None, 0));
        let sees_it = reader.wait();
        thread.join().unwrap();
        assert!(sees_it || flag.0.load(Ordering::Acquire), "a sleeper that nobody wakes");
        assert_eq!(all(reader.pieces(100).unwrap()), b"abc");
    });
}

#[test]
fn loom_units_of_two_writers_are_whole_and_one_after_the_other() {
    loom::model(|| {
        let feed = feed();
        let reader = feed.attach_at_end(Keep::All, flag());
        let writer = feed.clone();
        let thread = spawn(move || writer.append_stream(b"aa", None, 0));
        let mine = feed.append_stream(b"bbb", None, 0);
        let theirs = thread.join().unwrap();
        let bytes = all(reader.pieces(100).unwrap());
        assert!(
            bytes == b"aabbb" && (mine, theirs) == (Offset(5), Offset(2))
                || bytes == b"bbbaa" && (mine, theirs) == (Offset(3), Offset(5))
        );
    });
}

#[test]
fn loom_what_the_end_says_can_be_read() {
    loom::model(|| {
        let feed = feed();
        feed.turn_backlog_on();
        let writer = feed.clone();
        let thread = spawn(move || {
            writer.append_stream(b"ab", None, 0);
            writer.append_stream(b"cd", None, 0);
        });
        let end = feed.end();
        let bytes = all(feed.pieces(Offset(0), 100).unwrap());
        assert!(bytes.len() as u64 >= end.0 && b"abcd".starts_with(&bytes[..]) && bytes.len() % 2 == 0);
        thread.join().unwrap();
    });
}

#[test]
fn loom_a_reader_that_lets_go_does_not_lose_what_comes() {
    loom::model(|| {
        let feed = feed();
        let mut reader = feed.attach_at_end(Keep::All, flag());
        feed.append_stream(b"ab", None, 0);
        let writer = feed.clone();
        let thread = spawn(move || writer.append_stream(b"cd", None, 0));
        let first = all(reader.pieces(2).unwrap());
        reader.advance(Offset(2));
        thread.join().unwrap();
        assert_eq!((first, all(reader.pieces(100).unwrap())), (b"ab".to_vec(), b"cd".to_vec()));
    });
}
