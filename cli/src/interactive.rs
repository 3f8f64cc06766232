//! The interactive mode: history, completion, hints from COMMAND DOCS, redirects of a cluster.

use crate::client::{Address, Client, ClientError, Login, redirect};
use crate::docs::Docs;
use crate::format::{Style, format};
use proto::resp::{Value, split_inline};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};
use std::borrow::Cow;
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;

const HISTORY_MAX: usize = 10_000;

/// A session: a connection, or several to a cluster of which one is current.
pub struct Session {
    login: Login,
    follows_redirects: bool,
    client: Option<Client>,
    address: Address,
    db: u32,
    in_multi: bool,
}

impl Session {
    pub fn new(address: Address, login: Login, follows_redirects: bool) -> Session {
        Session { db: login.db, login, follows_redirects, client: None, address, in_multi: false }
    }

    pub fn connect(&mut self) -> Result<&mut Client, ClientError> {
        if self.client.is_none() {
            let login = Login { db: self.db, ..self.login.clone() };
            self.client = Some(Client::connect(&self.address, &login)?);
            self.in_multi = false;
        }
        Ok(self.client.as_mut().expect("just connected"))
    }

    /// Runs a command; follows redirects where that was asked for. `say` hears about them.
    pub fn call<A: AsRef<[u8]>>(
        &mut self,
        args: &[A],
        say: &mut dyn FnMut(String),
    ) -> Result<Value, ClientError> {
        const REDIRECTS_MAX: usize = 16;
        let mut is_ask = false;
        for _ in 0..REDIRECTS_MAX {
            let client = self.connect()?;
            if is_ask {
                client.call(&["ASKING"])?;
            }
            let value = match client.call(args) {
                Ok(value) => value,
                Err(error) => {
                    self.client = None;
                    return Err(error);
                }
            };
            match redirect(&value, &self.address).filter(|_| self.follows_redirects) {
                Some((slot, to, ask)) => {
                    say(format!("-> Redirected to slot [{slot}] located at {to}"));
                    self.address = to;
                    self.client = None;
                    is_ask = ask;
                }
                None => {
                    self.note(args, &value);
                    return Ok(value);
                }
            }
        }
        Ok(Value::Error("ERR too many redirects".into()))
    }

    /// What the prompt shows changes with some commands.
    fn note<A: AsRef<[u8]>>(&mut self, args: &[A], value: &Value) {
        let is = |i: usize, word: &str| {
            args.get(i).is_some_and(|a| a.as_ref().eq_ignore_ascii_case(word.as_bytes()))
        };
        if value.is_error() {
            return;
        }
        if is(0, "SELECT") {
            let number =
                args.get(1).and_then(|a| std::str::from_utf8(a.as_ref()).ok()).and_then(|t| t.parse().ok());
            self.db = number.unwrap_or(self.db);
        }
        self.in_multi =
            (self.in_multi || is(0, "MULTI")) && !is(0, "EXEC") && !is(0, "DISCARD") && !is(0, "RESET");
    }

    fn prompt(&self) -> String {
        if self.client.is_none() {
            return "not connected> ".into();
        }
        let db = if self.db == 0 { String::new() } else { format!("[{}]", self.db) };
        let multi = if self.in_multi { "(TX)" } else { "" };
        format!("{}{db}{multi}> ", self.address)
    }
}

struct Hints {
    docs: Rc<Docs>,
}

impl Helper for Hints {}
impl Validator for Hints {}
impl Highlighter for Hints {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[90m{hint}\x1b[0m"))
    }
}
impl Hinter for Hints {
    type Hint = String;
    fn hint(&self, line: &str, at: usize, _: &Context<'_>) -> Option<String> {
        (at == line.len()).then(|| self.docs.hint(line)).flatten()
    }
}
impl Completer for Hints {
    type Candidate = Pair;
    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let names = self.docs.complete(&line[..at]);
        Ok((0, names.iter().map(|n| Pair { display: n.to_string(), replacement: format!("{n} ") }).collect()))
    }
}

/// Reads lines until the user leaves. Returns the exit code.
pub fn run(mut session: Session, style: Style) -> i32 {
    let docs = match session.connect().and_then(|c| c.call(&["COMMAND", "DOCS"])) {
        Ok(reply) => Docs::parse(&reply),
        Err(error) => {
            eprintln!("{error}");
            Docs::default()
        }
    };
    let config = Config::builder().max_history_size(HISTORY_MAX).map(|b| b.auto_add_history(false).build());
    let editor = config.and_then(Editor::<Hints, DefaultHistory>::with_config);
    let mut editor = match editor {
        Ok(editor) => editor,
        Err(error) => {
            eprintln!("The terminal cannot be used: {error}");
            return 2;
        }
    };
    editor.set_helper(Some(Hints { docs: Rc::new(docs) }));
    let history = history_path();
    if let Some(path) = &history {
        let _ = editor.load_history(path);
    }
    let code = read_lines(&mut editor, &mut session, style);
    if let Some(path) = &history {
        let _ = editor.save_history(path);
    }
    code
}

fn history_path() -> Option<PathBuf> {
    std::env::var_os("SHOALCLI_HISTFILE")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".shoalcli_history")))
}

fn read_lines(editor: &mut Editor<Hints, DefaultHistory>, session: &mut Session, style: Style) -> i32 {
    loop {
        let line = match editor.readline(&session.prompt()) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return 0,
            Err(error) => {
                eprintln!("{error}");
                return 2;
            }
        };
        let Some(words) = split_inline(line.as_bytes()) else {
            eprintln!("Invalid argument(s): a quote is not closed");
            continue;
        };
        let Some(first) = words.first().map(|w| String::from_utf8_lossy(w).to_lowercase()) else { continue };
        if !is_secret(&first) {
            let _ = editor.add_history_entry(line.trim());
        }
        match first.as_str() {
            "quit" | "exit" => return 0,
            "clear" => {
                let _ = editor.clear_screen();
            }
            "connect" if words.len() == 3 => {
                let text = |i: usize| String::from_utf8_lossy(&words[i]).into_owned();
                if let Some(address) = Address::parse(&format!("{}:{}", text(1), text(2))) {
                    session.address = address;
                    session.client = None;
                    if let Err(error) = session.connect() {
                        eprintln!("{error}");
                    }
                }
            }
            "help" => help(editor, &words),
            _ => run_line(session, &words, style),
        }
    }
}

/// Passwords do not belong into a history file.
fn is_secret(command: &str) -> bool {
    matches!(command, "auth" | "hello")
}

fn help(editor: &Editor<Hints, DefaultHistory>, words: &[Vec<u8>]) {
    let names: Vec<String> = words[1..].iter().map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match editor.helper().and_then(|h| h.docs.find(&names).map(|(n, doc)| (n, doc.clone()))) {
        Some((n, doc)) => {
            println!(
                "\n  {} {}\n  {}\n",
                names[..n].join(" ").to_uppercase(),
                doc.args.join(" "),
                doc.summary
            );
        }
        None => {
            println!("Type: help COMMAND, a command, `connect HOST PORT`, `clear`, or `quit`. Tab completes.")
        }
    }
}

fn run_line(session: &mut Session, words: &[Vec<u8>], style: Style) {
    // `5 PING` runs PING five times, as in redis-cli.
    let count = words.first().and_then(|w| std::str::from_utf8(w).ok()).and_then(|t| t.parse::<u32>().ok());
    let (repeat, words) = match count {
        Some(n) if words.len() > 1 => (n.min(100_000), &words[1..]),
        _ => (1, words),
    };
    let stays = words[0].to_ascii_lowercase();
    for _ in 0..repeat {
        match session.call(words, &mut |text| println!("{text}")) {
            Ok(value) => {
                let _ = std::io::stdout().write_all(&format(&value, style));
            }
            Err(error) => {
                eprintln!("{error}");
                return;
            }
        }
        if matches!(stays.as_slice(), b"subscribe" | b"psubscribe" | b"ssubscribe" | b"monitor") {
            return listen(session, style);
        }
    }
}

/// Prints what comes in until the connection ends.
fn listen(session: &mut Session, style: Style) {
    println!("Reading messages... (press Ctrl-C to quit)");
    while let Some(client) = session.client.as_mut() {
        match client.receive() {
            Ok(value) => {
                let _ = std::io::stdout().write_all(&format(&value, style));
            }
            Err(error) => {
                eprintln!("{error}");
                session.client = None;
            }
        }
    }
}
