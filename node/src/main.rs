//! The server's binary: reads its configuration as redis-server does, and runs a node.

use node::alloc::Jemalloc;
use node::config::load_args;
use node::title::Place;
use node::{Real, log};
use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use storage::RealDisk;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let program = std::env::args().next().unwrap_or_default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("-v" | "--version") => {
            println!(
                "Shoal server v={} (Redis {})",
                env!("CARGO_PKG_VERSION"),
                node::commands::info::REDIS_VERSION
            );
            return ExitCode::SUCCESS;
        }
        Some("-h" | "--help") => {
            println!(
                "Usage: shoal-server [/path/to/shoal.conf] [--directive value ...] [-]\n       shoal-server --local-cluster NODES [--directive value ...]"
            );
            return ExitCode::SUCCESS;
        }
        Some("--local-cluster") => return local_cluster(&args[1..]),
        _ => {}
    }
    let mut stdin = || {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    };
    let config = match load_args(&args, &|path| std::fs::read_to_string(path), &mut stdin) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let is_titled = config.get("set-proc-title") == "yes";
    // SAFETY: there is no other thread yet, and the arguments have been read.
    let title = if is_titled { unsafe { Place::claim() } } else { None };
    if let Err(error) = log::start(config.get("loglevel"), config.get("logfile")) {
        eprintln!("Can't open the log file: {error}");
        return ExitCode::FAILURE;
    }
    serve(config, program, title)
}

fn local_cluster(args: &[String]) -> ExitCode {
    let Some(nodes) = args.first().and_then(|n| n.parse().ok()) else {
        eprintln!("--local-cluster needs the number of nodes");
        return ExitCode::FAILURE;
    };
    match node::local_cluster::run(nodes, &args[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The local cluster could not be formed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: node::Config, program: String, title: Option<Place>) -> ExitCode {
    let dir = config.get("dir").to_string();
    if let Err(error) = std::env::set_current_dir(&dir) {
        eprintln!("Can't chdir to '{dir}': {error}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Can't start the event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    announce(&config);
    let pid_file = config.get("pidfile").to_string();
    if !pid_file.is_empty()
        && let Err(error) = std::fs::write(&pid_file, format!("{}\n", std::process::id()))
    {
        tracing::warn!("Failed to write PID file: {error}");
    }
    if node::alloc::quantum() != Some(8) {
        tracing::warn!(
            "The allocator has size classes 16 bytes apart: values above 4 KiB may take a little more memory"
        );
    }
    let env = Real::new(Arc::new(RealDisk::new(".")))
        .with_pid_file(&pid_file)
        .with_jemalloc()
        .with_title(program, title);
    let (sender, signals) = tokio::sync::mpsc::unbounded_channel();
    let node = async move {
        tokio::task::spawn_local(listen_to_signals(sender));
        node::node::run_until(env, config, signals).await
    };
    match tokio::task::LocalSet::new().block_on(&runtime, node) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Says what starts, in the lines that supervisors and tests look for.
fn announce(config: &node::Config) {
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    let mode = if config.get("cluster-enabled") == "yes" { "cluster" } else { "standalone" };
    let port = if config.get("port") == "0" { config.get("tls-port") } else { config.get("port") };
    tracing::warn!(
        "Shoal version={version}, Redis version={}, bits=64, pid={pid}, just started",
        node::commands::info::REDIS_VERSION
    );
    match &config.path {
        Some(_) => tracing::warn!("Configuration loaded"),
        None => tracing::warn!("Warning: no config file specified, using the default config."),
    }
    if config.get("always-show-logo") == "yes" {
        tracing::info!(
            "\n{LOGO}\n    Shoal {version}    Running in {mode} mode    Port: {port}    PID: {pid}\n"
        );
    } else {
        tracing::info!("Running mode={mode}, port={port}.");
    }
}

const LOGO: &str = r"
      ><>    ><>         ><>
   ><>    ><>     ><>   ><>     ><>
      ><>     ><>    ><>    ><>
          ><>     ><>    ><>";

/// Hands SIGTERM and SIGINT to the node. A second SIGINT ends the process at once, and SIGHUP nothing, as in Redis: who was
/// started from a terminal outlives it.
async fn listen_to_signals(node: tokio::sync::mpsc::UnboundedSender<node::node::EndSignal>) {
    use tokio::signal::unix::{SignalKind, signal};
    let [term, int, hangup] =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let (Ok(mut term), Ok(mut int), Ok(_ignored)) = (term, int, hangup) else {
        return tracing::warn!("The kernel refuses to tell of signals");
    };
    let mut has_interrupted = false;
    loop {
        let directive = tokio::select! {
            biased;
            _ = term.recv() => "shutdown-on-sigterm",
            _ = int.recv() => "shutdown-on-sigint",
        };
        let is_int = directive == "shutdown-on-sigint";
        if is_int && has_interrupted {
            tracing::warn!("You insist... exiting now.");
            std::process::exit(1);
        }
        has_interrupted |= is_int;
        tracing::warn!("Received {} scheduling shutdown...", if is_int { "SIGINT" } else { "SIGTERM" });
        let _ = node.send(node::node::EndSignal { directive });
    }
}
