//! Options of the command line, as redis-cli's where it has them.

use crate::client::{Address, Login};
use crate::format::Style;
use crate::tls::{Tls, TlsOptions};
use clap::Parser;
use std::path::PathBuf;

/// A command line client for Shoal and for every server that speaks the Redis protocol.
#[derive(Parser, Debug)]
#[command(name = "shoal-cli", version, disable_help_flag = true, trailing_var_arg = true)]
#[command(after_help = "Administration of clusters (ADDRESS is host:port of any node):
  shoal-cli cluster create ADDRESS... [--replicas N] [--yes]
  shoal-cli cluster check ADDRESS
  shoal-cli cluster info ADDRESS
  shoal-cli cluster reshard ADDRESS --from ID --to ID --slots N [--yes]
  shoal-cli cluster failover ADDRESS [--force | --takeover]
  shoal-cli cluster add-node NEW ADDRESS [--replica [--primary ID]]
  shoal-cli cluster del-node ADDRESS ID

Without a command: interactive mode. Exit codes: 0 done, 1 an error reply, 2 bad usage, 3 no connection.")]
pub struct Options {
    /// Server's host.
    #[arg(short = 'h', default_value = "127.0.0.1")]
    pub host: String,
    /// Server's port.
    #[arg(short = 'p', default_value_t = 6379)]
    pub port: u16,
    /// Password. Better: the environment variable REDISCLI_AUTH.
    #[arg(short = 'a', long = "pass")]
    pub password: Option<String>,
    /// User for the password.
    #[arg(long)]
    pub user: Option<String>,
    /// Database number.
    #[arg(short = 'n', default_value_t = 0)]
    pub db: u32,
    /// Follow redirects of a cluster.
    #[arg(short = 'c')]
    pub is_cluster: bool,
    /// Speak RESP3.
    #[arg(short = '3')]
    pub is_resp3: bool,
    /// Print bytes as they are; the default when the output is no terminal.
    #[arg(long)]
    pub raw: bool,
    /// Print types and quotes even when the output is no terminal.
    #[arg(long = "no-raw")]
    pub no_raw: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Read the last argument from the standard input.
    #[arg(short = 'x')]
    pub is_last_from_stdin: bool,
    /// Repeat the command so many times.
    #[arg(short = 'r', default_value_t = 1)]
    pub repeat: u64,
    /// Wait so many seconds between repetitions.
    #[arg(short = 'i', default_value_t = 0.0)]
    pub interval_s: f64,
    /// Run the script in this file; keys and arguments follow, with a lone comma between them.
    #[arg(long)]
    pub eval: Option<PathBuf>,
    /// Debug the script of --eval line by line, and forget what it changes.
    #[arg(long, requires = "eval")]
    pub ldb: bool,
    /// Debug the script of --eval line by line, and keep what it changes; others wait meanwhile.
    #[arg(long = "ldb-sync-mode", requires = "eval")]
    pub ldb_sync: bool,
    /// Speak TLS.
    #[arg(long)]
    pub tls: bool,
    /// Name to ask the server for; otherwise the host.
    #[arg(long)]
    pub sni: Option<String>,
    /// File with the authorities to trust; otherwise those of the machine.
    #[arg(long)]
    pub cacert: Option<PathBuf>,
    /// Folder with the authorities to trust.
    #[arg(long)]
    pub cacertdir: Option<PathBuf>,
    /// Believe whoever answers.
    #[arg(long)]
    pub insecure: bool,
    /// Certificate to show to the server.
    #[arg(long)]
    pub cert: Option<PathBuf>,
    /// Key of that certificate.
    #[arg(long)]
    pub key: Option<PathBuf>,
    /// Answer 1 to the exit code for an error reply; kept for redis-cli's users: it is always so here.
    #[arg(short = 'e')]
    pub is_exit_code: bool,
    /// Show this help.
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// A command with its arguments.
    #[arg(allow_hyphen_values = true)]
    pub command: Vec<String>,
}

impl Options {
    pub fn address(&self) -> Address {
        Address { host: self.host.clone(), port: self.port }
    }
    /// `Err`: files of TLS that cannot be used.
    pub fn login(&self) -> Result<Login, String> {
        let password = self.password.clone().or_else(|| std::env::var("REDISCLI_AUTH").ok());
        let options = || TlsOptions {
            ca_file: self.cacert.clone(),
            ca_dir: self.cacertdir.clone(),
            certificate: self.cert.clone(),
            key: self.key.clone(),
            name: self.sni.clone(),
            is_insecure: self.insecure,
        };
        let tls = self.tls.then(|| Tls::new(&options())).transpose()?;
        Ok(Login { user: self.user.clone(), password, db: self.db, is_resp3: self.is_resp3, tls })
    }
    /// How to print, given whether the output is a terminal.
    pub fn style(&self, is_terminal: bool) -> Style {
        match (self.json, self.raw, self.no_raw, is_terminal) {
            (true, ..) => Style::Json,
            (_, true, ..) => Style::Raw,
            (_, _, true, _) | (_, _, _, true) => Style::Typed,
            _ => Style::Raw,
        }
    }
    /// The administration of a cluster, if the command is one: it names an address, which no CLUSTER subcommand does
    /// as its first argument.
    pub fn administration(&self) -> Option<&[String]> {
        const WORDS: [&str; 7] = ["create", "check", "info", "reshard", "failover", "add-node", "del-node"];
        let [cluster, word, rest @ ..] = self.command.as_slice() else { return None };
        let is_word = cluster == "cluster" && WORDS.contains(&word.as_str());
        let has_address = rest.first().is_some_and(|a| Address::parse(a).is_some());
        let wants_help = rest.iter().any(|a| a == "--help");
        let needs_one = !matches!(word.as_str(), "info" | "failover");
        (is_word && (has_address || wants_help || needs_one)).then(|| &self.command[1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        Options::parse_from(std::iter::once("shoal-cli").chain(words.iter().copied()))
    }

    #[test]
    fn a_command_keeps_its_dashes() {
        let o = parse(&["-p", "7000", "-c", "SET", "k", "-1"]);
        assert_eq!((o.port, o.is_cluster), (7000, true));
        assert_eq!(o.command, ["SET", "k", "-1"]);
    }

    #[test]
    fn administration_names_an_address() {
        assert!(parse(&["cluster", "info", "127.0.0.1:7000"]).administration().is_some());
        assert!(parse(&["cluster", "info"]).administration().is_none());
        assert!(parse(&["CLUSTER", "INFO"]).administration().is_none());
        assert!(parse(&["cluster", "create"]).administration().is_some());
        assert!(parse(&["cluster", "failover"]).administration().is_none());
    }
}
