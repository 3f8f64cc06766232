//! Administration of clusters: forming, looking, resharding, failing over, adding and removing nodes. Each command of
//! the tool is a file; all look at the cluster through [`nodes::Nodes`].

mod add_node;
mod check;
mod create;
mod del_node;
mod failover;
pub mod nodes;
mod reshard;

use crate::client::{Address, ClientError, Login};
use clap::{Parser, Subcommand};
use std::fmt;
use std::time::{Duration, Instant};

/// Why a command of the tool ended early.
#[derive(Debug)]
pub enum AdminError {
    /// The cluster, or one of its nodes, answered with an error.
    Refused(String),
    Usage(String),
    Client(ClientError),
    /// Something that should have happened did not.
    Timeout(String),
}

impl AdminError {
    pub fn code(&self) -> u8 {
        match self {
            AdminError::Refused(_) | AdminError::Timeout(_) => 1,
            AdminError::Usage(_) => 2,
            AdminError::Client(_) => 3,
        }
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminError::Refused(text) | AdminError::Usage(text) => write!(f, "[ERR] {text}"),
            AdminError::Client(error) => write!(f, "[ERR] {error}"),
            AdminError::Timeout(what) => write!(f, "[ERR] Waited in vain for {what}"),
        }
    }
}

impl From<ClientError> for AdminError {
    fn from(error: ClientError) -> AdminError {
        AdminError::Client(error)
    }
}

type Result<T> = std::result::Result<T, AdminError>;

#[derive(Parser)]
#[command(name = "shoal-cli cluster")]
struct Args {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Subcommand)]
enum Sub {
    /// Forms a cluster of empty nodes.
    Create {
        #[arg(required = true, value_parser = address)]
        nodes: Vec<Address>,
        /// Replicas per primary.
        #[arg(long, default_value_t = 0)]
        replicas: usize,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Looks whether all nodes agree, all slots are covered, and a failover would succeed.
    Check {
        #[arg(value_parser = address)]
        node: Address,
    },
    /// Shows primaries with their keys, slots and replicas.
    Info {
        #[arg(value_parser = address)]
        node: Address,
    },
    /// Moves slots between primaries, atomically and while they are written to.
    Reshard {
        #[arg(value_parser = address)]
        node: Address,
        /// Ids of the primaries that give, with commas between; `all`: every other one.
        #[arg(long, default_value = "all")]
        from: String,
        /// Id of the primary that takes.
        #[arg(long)]
        to: String,
        /// Number of slots.
        #[arg(long)]
        slots: usize,
        #[arg(long)]
        yes: bool,
    },
    /// Makes a replica the primary of its shard.
    Failover {
        /// The replica.
        #[arg(value_parser = address)]
        node: Address,
        /// The primary is dead or out of reach.
        #[arg(long)]
        force: bool,
        /// Most voters are lost for good. What the other side decides meanwhile is given up.
        #[arg(long, conflicts_with = "force")]
        takeover: bool,
    },
    /// Adds an empty node, as a primary without slots or as a replica.
    AddNode {
        #[arg(value_parser = address)]
        new: Address,
        #[arg(value_parser = address)]
        node: Address,
        #[arg(long)]
        replica: bool,
        /// Id of the primary to follow; else the one with the fewest replicas.
        #[arg(long, requires = "replica")]
        primary: Option<String>,
    },
    /// Removes a node that owns no slots.
    DelNode {
        #[arg(value_parser = address)]
        node: Address,
        id: String,
    },
}

fn address(text: &str) -> std::result::Result<Address, String> {
    Address::parse(text).ok_or_else(|| format!("{text} is no host:port"))
}

/// Runs `create ...`, `check ...` and so on.
pub fn run(words: &[String], login: &Login) -> Result<()> {
    let args =
        Args::try_parse_from(std::iter::once("shoal-cli cluster").chain(words.iter().map(String::as_str)));
    let args = match args {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return Ok(());
        }
        Err(error) => return Err(AdminError::Usage(error.render().to_string())),
    };
    match args.command {
        Sub::Create { nodes, replicas, yes } => create::run(&nodes, replicas, yes, login),
        Sub::Check { node } => check::check(&node, login),
        Sub::Info { node } => check::info(&node, login),
        Sub::Reshard { node, from, to, slots, yes } => {
            reshard::run(&node, &reshard::Plan { from, to, slots, yes }, login)
        }
        Sub::Failover { node, force, takeover } => failover::run(&node, force, takeover, login),
        Sub::AddNode { new, node, replica, primary } => {
            add_node::run(&new, &node, replica, primary.as_deref(), login)
        }
        Sub::DelNode { node, id } => del_node::run(&node, &id, login),
    }
}

/// Asks on the terminal; `yes` answers by itself.
fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    println!("{question} (type 'yes' to accept): ");
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    match read.is_ok() && line.trim() == "yes" {
        true => Ok(()),
        false => Err(AdminError::Refused("Not accepted; nothing was changed".into())),
    }
}

/// Asks `is_done` until it says so.
fn wait(what: &str, patience: Duration, mut is_done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if is_done()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(AdminError::Timeout(what.to_string()))
}

/// A bar for what takes long.
fn progress(total: u64, what: &str) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} ({elapsed})")
        .expect("the template is sound")
        .progress_chars("=> ");
    indicatif::ProgressBar::new(total).with_style(style).with_message(what.to_string())
}
