//! The house's rules that no compiler checks: who may import whom, which folders there are, what no file may say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is in the workspace").to_path_buf()
}

const CRATES: [(&str, &str); 11] = [
    ("proto", "proto"),
    ("storage", "storage"),
    ("engine", "node/engine"),
    ("trust", "node/trust"),
    ("gossip", "gossip"),
    ("replication", "replication"),
    ("migration", "replication/migration"),
    ("node", "node"),
    ("cli", "cli"),
    ("sim", "sim"),
    ("tests", "tests"),
];

/// What stands under `[dependencies]`.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
    let mut names = BTreeSet::new();
    let mut is_in = false;
    for line in text.lines() {
        if line.starts_with('[') {
            is_in = line == "[dependencies]";
        } else if is_in && let Some(name) = line.split(['.', ' ', '=']).next().filter(|n| !n.is_empty()) {
            names.insert(name.to_string());
        }
    }
    names
}

#[test]
fn crates_import_only_what_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("proto", &[][..]),
        ("storage", &["proto"]),
        ("engine", &["proto", "storage"]),
        ("trust", &[]),
        ("gossip", &["proto"]),
        ("replication", &["proto"]),
        ("migration", &["proto", "replication"]),
        ("node", &["proto", "storage", "engine", "gossip", "replication", "migration", "trust"]),
        ("cli", &["proto", "trust"]),
        ("sim", &["proto", "storage", "engine", "gossip", "replication", "migration", "node"]),
        ("tests", &["proto"]),
    ]);
    let own: BTreeSet<&str> = CRATES.iter().map(|(name, _)| *name).collect();
    for (name, folder) in CRATES {
        for dependency in dependencies(folder).iter().filter(|d| own.contains(d.as_str())) {
            assert!(allowed[name].contains(&dependency.as_str()), "{name} imports {dependency}");
        }
    }
}

#[test]
fn only_the_outermost_crates_have_an_event_loop() {
    for (name, folder) in CRATES {
        let may = ["node", "cli", "sim", "tests"].contains(&name);
        let has = dependencies(folder).iter().any(|d| d.starts_with("tokio") || d == "turmoil");
        assert!(may || !has, "{name} depends on an event loop");
    }
}

#[test]
fn there_are_no_other_folders() {
    let expected = ["cli", "gossip", "node", "proto", "replication", "sim", "storage", "tests"];
    let mut found: Vec<String> = std::fs::read_dir(root())
        .expect("the root")
        .filter_map(|e| e.ok())
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| !n.starts_with('.') && n != "target")
        .collect();
    found.sort();
    assert_eq!(found, expected);
}

fn sources(dir: &Path, each: &mut dyn FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(dir).expect("a folder").filter_map(|e| e.ok()) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, each);
        } else if path.extension().is_some_and(|e| e == "rs") {
            each(&path, &std::fs::read_to_string(&path).expect("text"));
        }
    }
}

/// Lines before the tests of a file: what ships.
fn shipped(text: &str) -> &str {
    let tests =
        ["#[cfg(test)]", "#![cfg(test)]", "#[cfg(all(test"].iter().filter_map(|mark| text.find(mark)).min();
    &text[..tests.unwrap_or(text.len())]
}

#[test]
fn the_cores_read_no_clock_and_start_no_thread() {
    let banned = [
        "std::time::Instant",
        "SystemTime",
        "Instant::now",
        "thread::spawn",
        "HashMap",
        "HashSet",
        "std::net",
        "std::fs",
        "tokio",
    ];
    for folder in
        ["proto/src", "node/engine/src", "gossip/src", "replication/src", "replication/migration/src"]
    {
        sources(&root().join(folder), &mut |path, text| {
            for word in banned {
                assert!(!shipped(text).contains(word), "{} names {word}", path.display());
            }
        });
    }
}

#[test]
fn nothing_is_left_to_do() {
    for (_, folder) in CRATES {
        sources(&root().join(folder), &mut |path, text| {
            if path.ends_with("tests/tests/house.rs") {
                return;
            }
            for word in ["todo!(", "unimplemented!(", "FIXME", "XXX:"] {
                assert!(!text.contains(word), "{} has {word}", path.display());
            }
        });
    }
}
