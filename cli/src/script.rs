//! `--eval`: a script from a file; with `--ldb`, debugged line by line. Follows redis-cli: keys stand before a lone comma
//! and arguments behind it, and what the debugger says is its own.

use crate::client::{Address, Client, ClientError, Login};
use crate::format::{Style, format};
use proto::resp::{Value, split_inline};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// The EVAL of a script in a file. `Err`: what is wrong with the file.
pub fn command(path: &Path, words: &[String]) -> Result<Vec<Vec<u8>>, String> {
    let script = std::fs::read(path).map_err(|e| format!("Can't open file '{}': {e}", path.display()))?;
    Ok(eval(script, words))
}

fn eval(script: Vec<u8>, words: &[String]) -> Vec<Vec<u8>> {
    let comma = words.iter().position(|word| word == ",");
    let keys = comma.unwrap_or(words.len());
    let mut command = vec![b"EVAL".to_vec(), script, keys.to_string().into_bytes()];
    let rest = words.iter().enumerate().filter(|(place, _)| Some(*place) != comma);
    command.extend(rest.map(|(_, word)| word.clone().into_bytes()));
    command
}

/// How a debugging session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The script has been answered, which was an error or not.
    Answered {
        is_error: bool,
    },
    /// The script was never begun.
    Refused,
    /// The user leaves.
    Quit,
    Restart,
}

const INTRODUCTION: &str = "Lua debugging session started, please use:
quit    -- End the session.
restart -- Restart the script in debug mode again.
help    -- Show Lua script debugging commands.
";

/// Debugs a script in a file, which is read anew at each restart. `is_sync`: on the data themselves.
pub fn debug(
    (address, login): (&Address, &Login),
    (path, words): (&Path, &[String]),
    is_sync: bool,
    style: Style,
) -> Result<End, String> {
    let mut lines = Lines::new()?;
    loop {
        println!("{INTRODUCTION}");
        let command = command(path, words)?;
        let mut session = || -> Result<End, ClientError> {
            let mut client = Client::connect(address, login)?;
            let mode = if is_sync { "SYNC" } else { "YES" };
            let reply = client.call(&["SCRIPT", "DEBUG", mode])?;
            if reply.is_error() {
                print(&reply, style);
                return Ok(End::Refused);
            }
            client.send(&command)?;
            converse(&mut client, &mut lines, is_sync, style)
        };
        match session().map_err(|error| error.to_string())? {
            End::Restart => println!(),
            end => return Ok(end),
        }
    }
}

fn converse(client: &mut Client, lines: &mut Lines, is_sync: bool, style: Style) -> Result<End, ClientError> {
    let mut is_first = true;
    loop {
        let told = client.receive()?;
        let Value::Array(told) = told else {
            print(&told, style);
            return Ok(End::Refused);
        };
        let told: Vec<&str> = told.iter().filter_map(Value::as_text).collect();
        let is_end = told.last() == Some(&"<endsession>");
        told.iter().filter(|line| **line != "<endsession>").for_each(|line| println!("{line}"));
        if is_end {
            if is_first {
                println!("Eval debugging session can't start:");
            }
            let reply = client.receive()?;
            print(&reply, style);
            if is_first {
                return Ok(End::Refused);
            }
            let note = if is_sync { "" } else { " -- dataset changes rolled back" };
            println!("\n(Lua debugging session ended{note})\n");
            return Ok(End::Answered { is_error: reply.is_error() });
        }
        is_first = false;
        match lines.next_command() {
            None => return Ok(End::Quit),
            Some(words) if is_word(&words, "quit") || is_word(&words, "exit") => return Ok(End::Quit),
            Some(words) if is_word(&words, "restart") => return Ok(End::Restart),
            Some(words) => client.send(&words)?,
        }
    }
}

fn is_word(words: &[Vec<u8>], word: &str) -> bool {
    words[0].eq_ignore_ascii_case(word.as_bytes())
}

fn print(value: &Value, style: Style) {
    // A closed output is noticed by who reads it.
    let _ = std::io::stdout().write_all(&format(value, style));
}

/// Where commands come from.
enum Lines {
    Terminal(Box<DefaultEditor>),
    Input,
}

impl Lines {
    fn new() -> Result<Lines, String> {
        if !std::io::stdin().is_terminal() {
            return Ok(Lines::Input);
        }
        let editor = DefaultEditor::new().map_err(|e| format!("The terminal cannot be used: {e}"))?;
        Ok(Lines::Terminal(Box::new(editor)))
    }

    fn next_line(&mut self) -> Option<String> {
        match self {
            Lines::Input => std::io::stdin().lines().next()?.ok(),
            Lines::Terminal(editor) => loop {
                match editor.readline("lua debugger> ") {
                    Ok(line) => {
                        let _ = editor.add_history_entry(line.trim());
                        return Some(line);
                    }
                    Err(ReadlineError::Interrupted) => {}
                    Err(_) => return None,
                }
            },
        }
    }

    /// The words of the next line that has any.
    fn next_command(&mut self) -> Option<Vec<Vec<u8>>> {
        loop {
            match words_of(&self.next_line()?) {
                Some(words) if words.is_empty() => {}
                Some(words) => return Some(words),
                None => println!("Invalid argument(s)"),
            }
        }
    }
}

/// The words of a command. The code of `eval` is one, as it stands. `None`: a quote is not closed.
fn words_of(line: &str) -> Option<Vec<Vec<u8>>> {
    match line.split_once(' ') {
        Some((name @ ("e" | "eval"), code)) => Some(vec![name.into(), code.into()]),
        _ => split_inline(line.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: Vec<Vec<u8>>) -> Vec<String> {
        words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect()
    }
    fn eval_of(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        texts(eval(b"return 1".to_vec(), &words))
    }

    #[test]
    fn keys_stand_before_a_comma() {
        assert_eq!(
            eval_of(&["a", "b", ",", "c", ",", "d"]),
            ["EVAL", "return 1", "2", "a", "b", "c", ",", "d"]
        );
        assert_eq!(eval_of(&["a"]), ["EVAL", "return 1", "1", "a"]);
        assert_eq!(eval_of(&[",", "x"]), ["EVAL", "return 1", "0", "x"]);
        assert_eq!(eval_of(&[]), ["EVAL", "return 1", "0"]);
    }

    #[test]
    fn code_is_one_word() {
        let words = |line| words_of(line).map(texts);
        assert_eq!(words("eval return 'a  b'").unwrap(), ["eval", "return 'a  b'"]);
        assert_eq!(words("e \"").unwrap(), ["e", "\""]);
        assert_eq!(words("r set k 'a  b'").unwrap(), ["r", "set", "k", "a  b"]);
        assert_eq!(words("evals \""), None);
    }
}
