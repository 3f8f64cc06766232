//! The server as a whole: CONFIG, INFO, saving, ending.

use super::Functions;
use crate::config::{Config, Kind, rewrite};
use crate::env::Env;
use crate::host::HostCx;
use crate::listen::Relisten;
use crate::persist::PersistRequest;
use engine::spec::{Arg, Command, Group, Handler, acl, flag};
use engine::{Error, HostOutcome};

type Outcome = Result<HostOutcome, Error>;

const BASE: Command = Command {
    group: Group::Server,
    arity: 1,
    flags: flag::ADMIN | flag::NOSCRIPT,
    acl: acl::DANGEROUS,
    run: Handler::Host,
    ..Command::BASE
};
const CONFIG_SUB: Command = Command {
    since: "2.0.0",
    complexity: "O(N) where N is the number of configuration parameters provided",
    flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
    ..BASE
};

pub static COMMANDS: &[Command] = &[
    Command {
        name: "info",
        summary: "Returns information and statistics about the server.",
        arity: -1,
        flags: flag::LOADING | flag::STALE,
        args: &[Arg::string("section").multiple().optional()],
        tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
        ..BASE
    },
    Command {
        name: "config",
        summary: "A container for server configuration commands.",
        since: "2.0.0",
        complexity: "Depends on subcommand.",
        arity: -2,
        flags: 0,
        run: Handler::Container,
        subcommands: &[
            Command {
                name: "get",
                summary: "Returns the effective values of configuration parameters.",
                arity: -3,
                args: &[Arg::string("parameter").multiple()],
                ..CONFIG_SUB
            },
            Command {
                name: "set",
                summary: "Sets configuration parameters in-flight.",
                arity: -4,
                args: &[Arg::block("data", &[Arg::string("parameter"), Arg::string("value")]).multiple()],
                is_secret: Some(|args, i| {
                    let name = |i: usize| String::from_utf8_lossy(args[i]).into_owned();
                    i > 2 && i % 2 == 1 && Config::directive(&name(i - 1)).is_some_and(|d| d.kind.is_secret())
                }),
                tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
                ..CONFIG_SUB
            },
            Command {
                name: "rewrite",
                summary: "Persists the effective configuration to file.",
                since: "2.8.0",
                arity: 2,
                ..CONFIG_SUB
            },
            Command { name: "resetstat", summary: "Resets the server's statistics.", arity: 2, ..CONFIG_SUB },
            Command {
                name: "help",
                summary: "Returns helpful text about the different subcommands.",
                since: "5.0.0",
                arity: 2,
                flags: flag::LOADING | flag::STALE,
                ..CONFIG_SUB
            },
        ],
        ..BASE
    },
    Command {
        name: "time",
        summary: "Returns the server time.",
        since: "2.6.0",
        flags: flag::LOADING | flag::STALE | flag::FAST,
        acl: 0,
        tips: &["nondeterministic_output"],
        ..BASE
    },
    Command {
        name: "save",
        summary: "Synchronously saves the database(s) to disk.",
        complexity: "O(N) where N is the total number of keys in all databases",
        flags: flag::ADMIN | flag::NOSCRIPT | flag::NO_ASYNC_LOADING | flag::NO_MULTI,
        ..BASE
    },
    Command {
        name: "bgsave",
        summary: "Saves the database(s) to disk while serving.",
        arity: -1,
        args: &[Arg::word("schedule", "SCHEDULE").since("3.2.2").optional()],
        flags: flag::ADMIN | flag::NOSCRIPT | flag::NO_ASYNC_LOADING,
        ..BASE
    },
    Command {
        name: "bgrewriteaof",
        summary: "Rewrites the append-only file while serving.",
        flags: flag::ADMIN | flag::NOSCRIPT | flag::NO_ASYNC_LOADING,
        ..BASE
    },
    Command {
        name: "lastsave",
        summary: "Returns the Unix timestamp of the last successful save to disk.",
        flags: flag::LOADING | flag::STALE | flag::FAST,
        acl: acl::ADMIN | acl::DANGEROUS,
        tips: &["nondeterministic_output"],
        ..BASE
    },
    Command {
        name: "shutdown",
        summary: "Saves the database(s) to disk and ends the server.",
        complexity: "O(N) when saving, where N is the total number of keys in all databases, otherwise O(1)",
        arity: -1,
        flags: flag::ADMIN
            | flag::NOSCRIPT
            | flag::LOADING
            | flag::STALE
            | flag::NO_MULTI
            | flag::ALLOW_BUSY
            | flag::WAITS,
        args: &[
            Arg::one_of("save-selector", &[Arg::word("nosave", "NOSAVE"), Arg::word("save", "SAVE")])
                .optional(),
            Arg::word("now", "NOW").since("7.0.0").optional(),
            Arg::word("force", "FORCE").since("7.0.0").optional(),
            Arg::word("abort", "ABORT").since("7.0.0").optional(),
        ],
        ..BASE
    },
];

fn info<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let sections: Vec<String> = (1..cx.args.len()).map(|i| cx.text(i).to_lowercase()).collect();
    let text = super::info::text(cx.shared(), &sections, cx.host.setting.now);
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

fn config_get<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let shared = cx.shared().clone();
    let config = shared.config();
    let found = config.matching(&cx.args[2..]);
    cx.out.map(found.len());
    for (name, value) in found {
        cx.out.bulk(name.as_bytes());
        cx.out.bulk(value.as_bytes());
    }
    Ok(HostOutcome::Done)
}

fn config_set<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    if !cx.args.len().is_multiple_of(2) {
        return Err(Error::Arity("config|set".into()));
    }
    let shared = cx.shared().clone();
    let (pairs, next) = checked(cx, &shared.config())?;
    let (is_concerned, is_moved, name) = {
        let config = shared.config();
        let moved = ["port", "tls-port", "bind"].into_iter().find(|name| next.get(name) != config.get(name));
        let first = pairs.first().map_or("", |(name, _)| *name);
        (crate::listen::is_concerned(&pairs, &config, &next), moved.is_some(), moved.unwrap_or(first))
    };
    if !is_concerned {
        shared.replace_config(next);
        return cx.ok();
    }
    let failed = |reason| {
        Err(Error::err(&format!("CONFIG SET failed (possibly related to argument '{name}') - {reason}")))
    };
    if is_moved && shared.settings().is_cluster {
        return failed("can't be changed in cluster mode");
    }
    if cx.is_nested() {
        return failed("can't be changed in a transaction");
    }
    shared.listening.request(Relisten { ticket: cx.ticket(), pairs });
    Ok(HostOutcome::Later)
}

type Pairs = Vec<(&'static str, Vec<String>)>;

/// The directives among the arguments, and a configuration that has them: all or nothing.
fn checked<E: Env>(cx: &HostCx<E>, config: &Config) -> Result<(Pairs, Config), Error> {
    let mut next: Config = config.clone();
    let mut pairs = Pairs::new();
    for i in (2..cx.args.len()).step_by(2) {
        let (name, value) = (cx.text(i), cx.text(i + 1));
        let Some(directive) = Config::directive(&name) else {
            return Err(Error::err(&format!(
                "Unknown option or number of arguments for CONFIG SET - '{name}'"
            )));
        };
        if pairs.iter().any(|(n, _)| *n == directive.name) {
            let shown = name.to_lowercase();
            return Err(Error::err(&format!(
                "CONFIG SET failed (possibly related to argument '{shown}') - duplicate parameter"
            )));
        }
        if directive.is_protected && !cx.is_enabled_in(config, "enable-protected-configs") {
            return Err(Error::err(&format!(
                "CONFIG SET failed (possibly related to argument '{}') - can't set protected config",
                name.to_lowercase()
            )));
        }
        let status = &cx.host.setting.status;
        if directive.is_for_loaded && (status.is_loading || status.is_loading_beside) {
            return Err(Error::text("LOADING Redis is loading the dataset in memory"));
        }
        let words: Vec<String> = match directive.kind {
            Kind::Words
            | Kind::Percentiles
            | Kind::Flags(_)
            | Kind::Primary
            | Kind::Save
            | Kind::OutputLimits => value.split_whitespace().map(String::from).collect(),
            _ => vec![value],
        };
        next.reset_and_set(&name, &words).map_err(|text| Error::Text(text.into()))?;
        pairs.push((directive.name, words));
    }
    Ok((pairs, next))
}

/// Writes what is in force into the configuration file; `is_full`: defaults as well.
pub fn rewrite_config<E: Env>(cx: &mut HostCx<E>, is_full: bool) -> Outcome {
    let shared = cx.shared().clone();
    let config = shared.config().clone();
    let Some(path) = config.path.clone() else {
        return Err(Error::text("ERR The server is running without a config file"));
    };
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let users: Vec<String> = match config.get("aclfile").is_empty() {
        true => shared
            .users
            .all()
            .iter()
            .map(|u| String::from_utf8_lossy(&u.line(&shared.engine.table)).into_owned())
            .collect(),
        false => Vec::new(),
    };
    let text = rewrite(&config, &old, is_full, &users);
    let fail = |e: std::io::Error| Error::err(&format!("Rewriting config file: {e}"));
    let temporary = format!("{path}.tmp-{}", shared.run_id);
    std::fs::write(&temporary, text).map_err(fail)?;
    std::fs::rename(&temporary, &path).map_err(fail)?;
    cx.ok()
}

fn time<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let now = cx.host.setting.now;
    cx.out.array(2);
    cx.out.bulk_int(now.wall.0 / 1000);
    cx.out.bulk_int(now.wall.0 % 1000 * 1000 + (now.mono.0 % 1000) as i64);
    Ok(HostOutcome::Done)
}

/// Hands a request to the persistence task, which answers.
fn persist<E: Env>(
    cx: &mut HostCx<E>,
    make: fn(crate::shared::Ticket<E::Socket>) -> PersistRequest<E::Socket>,
) -> Outcome {
    let request = make(cx.ticket());
    cx.shared().persist.request(request);
    Ok(HostOutcome::Later)
}

fn shutdown<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let (mut save, mut is_now, mut is_forced, mut is_abort) = (None, false, false, false);
    for i in 1..cx.args.len() {
        match cx.text(i).to_lowercase().as_str() {
            "save" if save.is_none() => save = Some(true),
            "nosave" if save.is_none() => save = Some(false),
            "now" => is_now = true,
            "force" => is_forced = true,
            "abort" => is_abort = true,
            _ => return Err(Error::Syntax),
        }
    }
    if is_abort {
        return match cx.args.len() {
            2 if cx.shared().persist.shutdown.abort() => {
                tracing::warn!("Shutdown manually aborted.");
                cx.ok()
            }
            2 => Err(Error::text("ERR No shutdown in progress.")),
            _ => Err(Error::Syntax),
        };
    }
    // Redis 7.0: what a slow script has done so far is not saved, so only NOSAVE ends the server in its middle.
    if save != Some(false)
        && let Some(busy) = cx.shared().busy_script()
    {
        return Err(busy);
    }
    let ticket = cx.ticket();
    cx.shared().persist.request(PersistRequest::ShutDown { ticket: Some(ticket), save, is_now, is_forced });
    Ok(HostOutcome::Later)
}

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("info", info::<E>),
        ("config|get", config_get::<E>),
        ("config|set", config_set::<E>),
        ("config|rewrite", |cx| rewrite_config(cx, false)),
        ("config|resetstat", |cx| {
            cx.shared().reset_stats();
            cx.ok()
        }),
        ("config|help", |cx| cx.help()),
        ("time", time::<E>),
        ("save", |cx| persist(cx, PersistRequest::Save)),
        ("bgsave", |cx| match (cx.args.len(), cx.is_word(1, "SCHEDULE")) {
            (1, _) | (2, true) if cx.is_nested() => {
                let ticket = cx.ticket_of_nobody();
                cx.shared().persist.request(PersistRequest::BackgroundSave { ticket, is_scheduled: true });
                cx.out.simple("Background saving scheduled");
                Ok(HostOutcome::Done)
            }
            (1, _) => persist(cx, |ticket| PersistRequest::BackgroundSave { ticket, is_scheduled: false }),
            (2, true) => persist(cx, |ticket| PersistRequest::BackgroundSave { ticket, is_scheduled: true }),
            _ => Err(Error::Syntax),
        }),
        ("bgrewriteaof", |cx| {
            if !cx.is_nested() {
                return persist(cx, PersistRequest::RewriteLog);
            }
            let ticket = cx.ticket_of_nobody();
            cx.shared().persist.request(PersistRequest::RewriteLog(ticket));
            cx.out.simple("Background append only file rewriting scheduled");
            Ok(HostOutcome::Done)
        }),
        ("lastsave", |cx| {
            let at_s = cx.shared().persist.status().last_save_s;
            cx.out.int(at_s);
            Ok(HostOutcome::Done)
        }),
        ("shutdown", shutdown::<E>),
    ]
}
