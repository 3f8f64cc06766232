//! The command line client's binary.

use clap::Parser;
use cli::cluster;
use cli::format::format;
use cli::interactive::{self, Session};
use cli::options::Options;
use cli::script::{self, End};
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const ERROR_REPLY: u8 = 1;
const BAD_USAGE: u8 = 2;
const NO_CONNECTION: u8 = 3;

fn main() -> ExitCode {
    let options = Options::parse();
    let login = match options.login() {
        Ok(login) => login,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    if let Some(words) = options.administration() {
        return match cluster::run(words, &login) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(error.code())
            }
        };
    }
    let style = options.style(std::io::stdout().is_terminal());
    let mut session = Session::new(options.address(), login, options.is_cluster);
    let mut command: Vec<Vec<u8>> = options.command.iter().map(|w| w.clone().into_bytes()).collect();
    if let Some(path) = &options.eval {
        if options.ldb || options.ldb_sync {
            return debug(path, &options, style);
        }
        command = match script::command(path, &options.command) {
            Ok(command) => command,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(BAD_USAGE);
            }
        };
    }
    if options.is_last_from_stdin {
        let mut last = Vec::new();
        if let Err(error) = std::io::stdin().read_to_end(&mut last) {
            eprintln!("The standard input cannot be read: {error}");
            return ExitCode::from(BAD_USAGE);
        }
        command.push(last);
    }
    if !command.is_empty() {
        return one_shot(&mut session, &command, &options, style);
    }
    if std::io::stdin().is_terminal() {
        return ExitCode::from(interactive::run(session, style) as u8);
    }
    from_stdin(&mut session, style)
}

/// Debugs a script; when it has ended, commands are read as without one.
fn debug(path: &Path, options: &Options, style: cli::format::Style) -> ExitCode {
    let login = match options.login() {
        Ok(login) => login,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    let target = (&options.address(), &login);
    match script::debug(target, (path, &options.command), options.ldb_sync, style) {
        Ok(End::Quit) | Ok(End::Restart) => ExitCode::SUCCESS,
        Ok(End::Refused) => ExitCode::from(ERROR_REPLY),
        Ok(End::Answered { is_error }) => {
            let mut session = Session::new(options.address(), login, options.is_cluster);
            if std::io::stdin().is_terminal() {
                return ExitCode::from(interactive::run(session, style) as u8);
            }
            match from_stdin(&mut session, style) {
                ExitCode::SUCCESS if is_error => ExitCode::from(ERROR_REPLY),
                code => code,
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(NO_CONNECTION)
        }
    }
}

fn one_shot(
    session: &mut Session,
    command: &[Vec<u8>],
    options: &Options,
    style: cli::format::Style,
) -> ExitCode {
    let mut code = 0;
    for round in 0..options.repeat {
        if round > 0 && options.interval_s > 0.0 {
            std::thread::sleep(Duration::from_secs_f64(options.interval_s));
        }
        code = run(session, command, style);
        if code == NO_CONNECTION {
            break;
        }
    }
    ExitCode::from(code)
}

/// A command per line; the exit code is that of the last one that failed.
fn from_stdin(session: &mut Session, style: cli::format::Style) -> ExitCode {
    let mut code = 0;
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { return ExitCode::from(BAD_USAGE) };
        let Some(words) = proto::resp::split_inline(line.as_bytes()) else {
            eprintln!("Invalid argument(s): a quote is not closed: {line}");
            code = BAD_USAGE;
            continue;
        };
        if !words.is_empty() {
            code = code.max(run(session, &words, style));
        }
    }
    ExitCode::from(code)
}

fn run(session: &mut Session, command: &[Vec<u8>], style: cli::format::Style) -> u8 {
    match session.call(command, &mut |text| eprintln!("{text}")) {
        Ok(value) => {
            let written = std::io::stdout().write_all(&format(&value, style));
            if written.is_err() || value.is_error() { ERROR_REPLY } else { 0 }
        }
        Err(error) => {
            eprintln!("{error}");
            NO_CONNECTION
        }
    }
}
