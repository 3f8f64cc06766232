//! The title that tools such as ps show of the process: `proc-title-template`, filled in.
//!
//! The kernel shows the memory in which the process found its arguments, and goes on into the environment behind them if
//! the last byte of the arguments is not 0. So a title is written there, as setproctitle of the BSDs, and of Redis, does;
//! the environment moves to the heap before.

use crate::config::Config;
use std::ops::Range;

/// Fills in a template, without spaces at its ends. `value`: what a variable holds; `None`: there is none of that name.
/// Follows Redis's `sdstemplate`. `None`: an unknown variable, or a brace that is not closed.
pub fn expand(template: &str, value: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (mut title, mut rest) = (String::new(), template);
    while let Some(open) = rest.find('{') {
        title.push_str(&rest[..open]);
        rest = &rest[open + 1..];
        if let Some(quoted) = rest.strip_prefix('{') {
            title.push('{');
            rest = quoted;
            continue;
        }
        let close = rest.find('}')?;
        title.push_str(&value(&rest[..close])?);
        rest = &rest[close + 1..];
    }
    title.push_str(rest);
    Some(title.trim_matches(' ').to_string())
}

/// Whether a template may be set: it can be filled in, and says more than the program's name.
pub fn is_valid(template: &str) -> bool {
    let is_empty = |name: &str| matches!(name, "title" | "server-mode" | "unixsocket");
    let is_known = |name: &str| matches!(name, "listen-addr" | "config-file" | "port" | "tls-port");
    let value = |name: &str| match (is_empty(name), is_known(name)) {
        (true, _) => Some(String::new()),
        (_, true) => Some("x".into()),
        _ => None,
    };
    expand(template, value).is_some_and(|title| !title.is_empty())
}

/// The title of a process that was started as `program`. `None`: it stays as it is.
pub fn of(config: &Config, program: &str) -> Option<String> {
    if config.get("set-proc-title") != "yes" {
        return None;
    }
    let first = |words: &str| words.split(' ').next().unwrap_or_default().to_string();
    let listens = || {
        let port = [config.get("port"), config.get("tls-port")].into_iter().find(|port| *port != "0");
        match (port, first(config.get("bind"))) {
            (None, _) => format!("unixsocket:{}", config.get("unixsocket")),
            (Some(port), host) if host.is_empty() => format!("*:{port}"),
            (Some(port), host) => format!("{host}:{port}"),
        }
    };
    expand(config.get("proc-title-template"), |name| {
        Some(match name {
            "title" => program.to_string(),
            "listen-addr" => listens(),
            "server-mode" if config.get("cluster-enabled") == "yes" => "[cluster]".into(),
            "server-mode" => String::new(),
            "config-file" => config.path.clone().unwrap_or_else(|| "-".into()),
            "port" | "tls-port" | "unixsocket" => config.get(name).to_string(),
            _ => return None,
        })
    })
}

/// The memory that the kernel shows as the process's arguments.
pub struct Place {
    arguments: Range<usize>,
    /// Behind the environment, if that follows at once; else that of the arguments.
    end: usize,
}

impl Place {
    /// Finds it and moves the environment out of it. `None`: the kernel does not tell.
    ///
    /// # Safety
    /// No other thread runs, and nobody uses the process's arguments in place afterwards.
    pub unsafe fn claim() -> Option<Place> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let place = Place::parse(&stat)?;
        for (name, value) in std::env::vars_os() {
            // SAFETY: this is the only thread, says the caller. The C library puts what is set onto the heap.
            unsafe { std::env::set_var(name, value) };
        }
        Some(place)
    }

    /// Reads fields 48 to 51 of proc(5)'s `stat`: where arguments and environment begin and end.
    fn parse(stat: &str) -> Option<Place> {
        const ARG_START: usize = 48 - 3; // behind the name, which may hold spaces, field 3 comes
        let behind_name = &stat[stat.rfind(')')? + 1..];
        let fields: Vec<usize> =
            behind_name.split_whitespace().skip(ARG_START).take(4).filter_map(|f| f.parse().ok()).collect();
        let [arg_start, arg_end, env_start, env_end] = fields[..] else { return None };
        let end = if env_start == arg_end { env_end.max(arg_end) } else { arg_end };
        (arg_start > 0 && arg_start < arg_end).then_some(Place { arguments: arg_start..arg_end, end })
    }

    /// Writes as much of a title as there is room for.
    pub fn write(&mut self, title: &str) {
        // SAFETY: the kernel said that this memory holds the arguments and the environment, which `claim` moved away;
        // nobody else reads or writes it.
        let memory = unsafe {
            std::slice::from_raw_parts_mut(self.arguments.start as *mut u8, self.end - self.arguments.start)
        };
        fill(memory, self.arguments.len(), title.as_bytes());
    }
}

/// `arguments`: bytes of `memory` that held them. While the last of these is 0 the kernel shows all of them, with the zeros
/// behind a shorter title.
fn fill(memory: &mut [u8], arguments: usize, title: &[u8]) {
    memory.fill(0);
    let len = title.len().min(memory.len() - 1);
    memory[..len].copy_from_slice(&title[..len]);
    if len < arguments - 1 {
        memory[arguments - 1] = b'.';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in() {
        let mut config = Config::default();
        let mut set = |name: &str, value: &str| config.set(name, &[value.to_string()], true).unwrap();
        set("port", "7");
        set("bind", "127.0.0.1");
        set("cluster-enabled", "yes");
        assert_eq!(of(&config, "/bin/shoal").unwrap(), "/bin/shoal 127.0.0.1:7 [cluster]");
        let mut set = |name: &str, value: &str| config.set(name, &[value.to_string()], true).unwrap();
        set("port", "0");
        set("unixsocket", "/s");
        set("proc-title-template", " {{x} {listen-addr} {port} {tls-port} {config-file} {unixsocket} ");
        assert_eq!(of(&config, "p").unwrap(), "{x} unixsocket:/s 0 0 - /s");
        config.set("set-proc-title", &["no".into()], true).unwrap();
        assert_eq!(of(&config, "p"), None);
    }

    #[test]
    fn templates_that_say_nothing_or_nonsense_are_refused() {
        for template in ["", "   ", "{title}", "{server-mode} {title}", "{x}", "a {", "a {port", "{Port}"] {
            assert!(!is_valid(template), "{template}");
        }
        assert!(is_valid("{title} {port}") && is_valid("a") && is_valid("{{"));
    }

    #[test]
    fn the_kernel_stops_behind_the_title() {
        // As the kernel reads it: all arguments if the last byte is 0, else up to the first 0.
        let shown = |title: &str| {
            let mut memory = *b"prog\0arg\0A=1\0B=2\0";
            fill(&mut memory, 9, title.as_bytes());
            let end = if memory[8] == 0 { 9 } else { memory.iter().position(|b| *b == 0).unwrap() };
            String::from_utf8(memory[..end].to_vec()).unwrap()
        };
        assert_eq!(shown("1234"), "1234");
        assert_eq!(shown("1234567"), "1234567");
        assert_eq!(shown("12345678"), "12345678\0");
        assert_eq!(shown("123456789"), "123456789");
        assert_eq!(shown(&"x".repeat(99)), "x".repeat(16));
    }

    #[test]
    fn the_place_is_in_proc() {
        let stat = |tail: &str| format!("7 (a) b) S {}{tail} 0", "0 ".repeat(44));
        let place = Place::parse(&stat("100 200 200 300")).unwrap();
        assert_eq!((place.arguments, place.end), (100..200, 300));
        assert_eq!(Place::parse(&stat("100 200 208 300")).unwrap().end, 200);
        assert!(Place::parse(&stat("0 0 0 0")).is_none());
        assert!(Place::parse(&std::fs::read_to_string("/proc/self/stat").unwrap()).is_some());
    }
}
