//! ACL: users and their rights.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use crate::users::{self, Renewed};
use engine::acl::{DEFAULT, Selector, has_spaces};
use engine::spec::{Arg, Command, Group, Handler, acl, flag};
use engine::{Error, HostOutcome};
use proto::resp::Reply;

type Outcome = Result<HostOutcome, Error>;

const SUB: Command = Command {
    group: Group::Server,
    since: "6.0.0",
    complexity: "O(N). Where N is the number of configured users.",
    flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
    run: Handler::Host,
    ..Command::BASE
};
const ADMIN: Command = Command { flags: SUB.flags | flag::ADMIN, ..SUB };
const USERNAME: Arg = Arg::string("username");

pub static COMMANDS: &[Command] = &[Command {
    name: "acl",
    summary: "A container for Access List Control commands.",
    complexity: "Depends on subcommand.",
    arity: -2,
    flags: 0,
    run: Handler::Container,
    subcommands: &[
        Command {
            name: "cat",
            summary: "Lists the ACL categories, or the commands inside a category.",
            complexity: "O(1) since the categories and commands are a fixed set.",
            arity: -2,
            args: &[Arg::string("category").optional()],
            ..SUB
        },
        Command {
            name: "deluser",
            summary: "Deletes ACL users, and terminates their connections.",
            complexity: "O(1) amortized time considering the typical user.",
            arity: -3,
            args: &[USERNAME.multiple()],
            tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
            ..ADMIN
        },
        Command {
            name: "dryrun",
            summary: "Simulates the execution of a command by a user, without executing the command.",
            since: "7.0.0",
            complexity: "O(1).",
            arity: -4,
            args: &[USERNAME, Arg::string("command"), Arg::string("arg").multiple().optional()],
            ..ADMIN
        },
        Command {
            name: "genpass",
            summary: "Generates a pseudorandom, secure password that can be used to identify ACL users.",
            complexity: "O(1)",
            arity: -2,
            args: &[Arg::integer("bits").optional()],
            ..SUB
        },
        Command {
            name: "getuser",
            summary: "Lists the ACL rules of a user.",
            complexity: "O(N). Where N is the number of password, command and pattern rules that the user has.",
            arity: 3,
            args: &[USERNAME],
            history: &[
                ("6.2.0", "Added Pub/Sub channel patterns."),
                (
                    "7.0.0",
                    "Added selectors and changed the format of key and channel patterns from a list to their rule representation.",
                ),
            ],
            ..ADMIN
        },
        Command {
            name: "help",
            summary: "Returns helpful text about the different subcommands.",
            complexity: "O(1)",
            arity: 2,
            ..SUB
        },
        Command { name: "list", summary: "Dumps the effective rules in ACL file format.", arity: 2, ..ADMIN },
        Command {
            name: "load",
            summary: "Reloads the rules from the configured ACL file.",
            arity: 2,
            ..ADMIN
        },
        Command {
            name: "log",
            summary: "Lists recent security events generated due to ACL rules.",
            complexity: "O(N) with N being the number of entries shown.",
            arity: -2,
            args: &[
                Arg::one_of("operation", &[Arg::integer("count"), Arg::word("reset", "RESET")]).optional()
            ],
            history: &[("7.2.0", "Added entry ID, timestamp created, and timestamp last updated.")],
            ..ADMIN
        },
        Command {
            name: "save",
            summary: "Saves the effective ACL rules in the configured ACL file.",
            arity: 2,
            tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
            ..ADMIN
        },
        Command {
            name: "setuser",
            summary: "Creates and modifies an ACL user and its rules.",
            complexity: "O(N). Where N is the number of rules provided.",
            arity: -3,
            args: &[USERNAME, Arg::string("rule").multiple().optional()],
            is_secret: Some(|_, i| i > 1),
            tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
            history: &[
                ("6.2.0", "Added Pub/Sub channel patterns."),
                ("7.0.0", "Added selectors and key based permissions."),
            ],
            ..ADMIN
        },
        Command { name: "users", summary: "Lists all ACL users.", arity: 2, ..ADMIN },
        Command {
            name: "whoami",
            summary: "Returns the authenticated username of the current connection.",
            complexity: "O(1)",
            arity: 2,
            ..SUB
        },
    ],
    ..SUB
}];

fn cat<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let table = &cx.host.shared.engine.table;
    match cx.args {
        [_, _] => {
            cx.out.array(acl::NAMES.len());
            acl::NAMES.iter().for_each(|(_, name)| cx.out.bulk(name.as_bytes()));
        }
        [_, _, name] => {
            let category = acl::named(name).ok_or_else(|| {
                let name = String::from_utf8_lossy(&name[..name.len().min(128)]).into_owned();
                Error::err(&format!("Unknown category '{name}'"))
            })?;
            let found: Vec<&str> = table
                .commands()
                .flat_map(|s| std::iter::once(s).chain(s.subcommands.iter().copied()))
                .filter(|s| s.acl & category != 0)
                .map(|s| s.full_name.as_str())
                .collect();
            cx.out.array(found.len());
            found.iter().for_each(|name| cx.out.bulk(name.as_bytes()));
        }
        _ => return Err(cx.unknown_form()),
    }
    Ok(HostOutcome::Done)
}

fn set_user<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    if has_spaces(cx.args[2]) {
        return Err(Error::text("ERR Usernames can't contain spaces or null characters"));
    }
    users::set(cx.shared(), cx.args[2], &cx.args[3..]).map_err(|text| Error::err(&text))?;
    cx.out.ok();
    Ok(renew_own(cx))
}

/// The commands that follow in the same batch run with the rights of now; there are none for whom the user is gone.
fn renew_own<E: Env>(cx: &mut HostCx<E>) -> HostOutcome {
    let shared = cx.shared().clone();
    match shared.users.renew(cx.session) {
        // Inside EXEC the letter of those who removed the user ends the connection.
        Renewed::Gone if !cx.is_nested() => HostOutcome::Close,
        _ => HostOutcome::Done,
    }
}

fn del_user<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let names = &cx.args[2..];
    if names.contains(&DEFAULT) {
        return Err(Error::text("ERR The 'default' user cannot be removed"));
    }
    let deleted = names.iter().filter(|name| users::delete(cx.host.shared, name)).count();
    cx.out.int(deleted as i64);
    Ok(renew_own(cx))
}

fn get_user<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let Some(user) = cx.shared().users.get(cx.args[2]) else {
        cx.out.null();
        return Ok(HostOutcome::Done);
    };
    let table = &cx.host.shared.engine.table;
    let out = &mut *cx.out;
    out.map(6);
    out.bulk(b"flags");
    let flags = user.flags();
    out.set(flags.len());
    flags.iter().for_each(|f| out.bulk(f.as_bytes()));
    out.bulk(b"passwords");
    out.array(user.passwords().len());
    user.passwords().iter().for_each(|p| out.bulk(p));
    selector(user.root(), table, out);
    out.bulk(b"selectors");
    out.array(user.more_selectors().len());
    for more in user.more_selectors() {
        out.map(3);
        selector(more, table, out);
    }
    Ok(HostOutcome::Done)
}

/// Three fields.
fn selector(selector: &Selector, table: &engine::Table, out: &mut Reply) {
    out.bulk(b"commands");
    out.bulk(selector.describe_commands(table).as_bytes());
    out.bulk(b"keys");
    out.bulk(&selector.describe_keys());
    out.bulk(b"channels");
    out.bulk(&selector.describe_channels());
}

fn list<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let users = cx.shared().users.all();
    cx.out.array(users.len());
    users.iter().for_each(|user| cx.out.bulk(&user.line(&cx.host.shared.engine.table)));
    Ok(HostOutcome::Done)
}

fn names<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let users = cx.shared().users.all();
    cx.out.array(users.len());
    users.iter().for_each(|user| cx.out.bulk(&user.name));
    Ok(HostOutcome::Done)
}

fn who_am_i<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    match cx.session.user() {
        Some(user) => cx.out.bulk(&user.name),
        None => cx.out.null(),
    }
    Ok(HostOutcome::Done)
}

fn gen_pass<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    const BITS_MAX: i64 = 4096;
    let bits = match cx.args.len() {
        2 => 256,
        3 => cx.int(2)?,
        _ => return Err(cx.unknown_form()),
    };
    if !(1..=BITS_MAX).contains(&bits) {
        return Err(Error::err(&format!(
            "ACL GENPASS argument must be the number of bits for the output password, a positive number up to {BITS_MAX}"
        )));
    }
    let digits = (bits as usize).div_ceil(4);
    let mut text = String::new();
    while text.len() < digits {
        text += &format!("{:016x}", cx.shared().env.rand());
    }
    cx.out.bulk(&text.as_bytes()[..digits]);
    Ok(HostOutcome::Done)
}

fn check_has_file<E: Env>(cx: &HostCx<E>) -> Result<(), Error> {
    match cx.shared().config().get("aclfile").is_empty() {
        true => Err(Error::text(
            "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.",
        )),
        false => Ok(()),
    }
}

fn load<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    check_has_file(cx)?;
    users::load_file(cx.shared()).map_err(|text| Error::err(&text))?;
    cx.out.ok();
    Ok(renew_own(cx))
}

fn save<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    check_has_file(cx)?;
    users::save_file(cx.shared()).map_err(|error| {
        tracing::warn!(%error, "ACL SAVE");
        Error::text(
            "ERR There was an error trying to save the ACLs. Please check the server logs for more information",
        )
    })?;
    cx.ok()
}

fn log<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    const SHOWN: i64 = 10;
    let count = match cx.args.len() {
        2 => SHOWN,
        3 if cx.is_word(2, "RESET") => {
            cx.shared().users.log.clear();
            return cx.ok();
        }
        3 => cx.int(2)?,
        _ => return Err(cx.unknown_form()),
    };
    let entries = cx.shared().users.log.newest(count.max(0) as usize);
    let now_ms = cx.host.setting.now.wall.0;
    let out = &mut *cx.out;
    out.array(entries.len());
    for entry in entries {
        out.map(10);
        out.bulk(b"count");
        out.int(entry.count as i64);
        let texts: [(&str, &[u8]); 4] = [
            ("reason", entry.reason.name().as_bytes()),
            ("context", entry.context.name().as_bytes()),
            ("object", &entry.object),
            ("username", &entry.user),
        ];
        for (name, value) in texts {
            out.bulk(name.as_bytes());
            out.bulk(value);
        }
        out.bulk(b"age-seconds");
        out.double((now_ms - entry.updated_ms).max(0) as f64 / 1000.0);
        out.bulk(b"client-info");
        out.bulk(entry.client.as_bytes());
        for (name, value) in [
            ("entry-id", entry.id as i64),
            ("timestamp-created", entry.created_ms),
            ("timestamp-last-updated", entry.updated_ms),
        ] {
            out.bulk(name.as_bytes());
            out.int(value);
        }
    }
    Ok(HostOutcome::Done)
}

fn dry_run<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let user = cx
        .shared()
        .users
        .get(cx.args[2])
        .ok_or_else(|| Error::err(&format!("User '{}' not found", cx.text(2))))?;
    let args = &cx.args[3..];
    let spec = cx
        .host
        .shared
        .engine
        .table
        .find(args)
        .map_err(|_| Error::err(&format!("Command '{}' not found", cx.text(3))))?;
    if !spec.is_arity(args.len()) {
        return Err(Error::Arity(spec.full_name.clone()));
    }
    match user.check(spec, args) {
        Ok(()) => cx.out.ok(),
        Err(denied) => cx.out.bulk(&denied.explain(spec, args)),
    }
    Ok(HostOutcome::Done)
}

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("acl|cat", cat::<E>),
        ("acl|deluser", del_user::<E>),
        ("acl|dryrun", dry_run::<E>),
        ("acl|genpass", gen_pass::<E>),
        ("acl|getuser", get_user::<E>),
        ("acl|help", |cx| cx.help()),
        ("acl|list", list::<E>),
        ("acl|load", load::<E>),
        ("acl|log", log::<E>),
        ("acl|save", save::<E>),
        ("acl|setuser", set_user::<E>),
        ("acl|users", names::<E>),
        ("acl|whoami", who_am_i::<E>),
    ]
}
