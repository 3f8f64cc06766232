//! Hand-run proof that RDB files go both ways: see `fixtures/cross.sh`.
//!
//! `rdb_cross rewrite IN OUT VERSION` loads IN and writes it again; `rdb_cross dump IN` prints key and DUMP payload.

use std::fs;
use storage::rdb::{self, Access, Event, Format, LoadOptions, RdbError, RdbWriter, write_record};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let bytes = fs::read(&args[2]).expect("the input file");
    let version = args.get(4).map_or(10, |v| v.parse().expect("a version"));
    let format = Format { version, ..Format::default() };
    let mut writer = RdbWriter::new(format);
    let mut out = Vec::new();
    writer.header(&[(b"redis-ver", b"7.0.15")], &mut out);
    let loaded = rdb::load::<RdbError>(&mut &bytes[..], LoadOptions::default(), &mut |event| {
        match event {
            Event::Key(r) if args[1] == "rewrite" => {
                let mut record = Vec::new();
                write_record(&mut record, &format, &r.key, r.value.as_ref(), r.expire_ms, Access::None);
                writer.records(r.db as u16, &record, &mut out);
            }
            Event::Key(r) => {
                let payload = rdb::dump(r.value.as_ref(), &format);
                let hex: String = payload.iter().map(|b| format!("{b:02x}")).collect();
                println!("{} {} {hex}", r.db, String::from_utf8_lossy(&r.key));
            }
            Event::Function(code) => writer.function(&code, &mut out),
            _ => {}
        }
        Ok(())
    });
    if let Err(e) = loaded {
        eprintln!("{e}");
        std::process::exit(1);
    }
    if args[1] == "rewrite" {
        writer.finish(&mut out);
        fs::write(&args[3], out).expect("the output file");
    }
}
