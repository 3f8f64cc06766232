//! Log lines in the form of Redis: `PID:ROLE DD Mon YYYY HH:MM:SS.mmm LEVEL message`, which tools and tests look for.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The letter of the role, for the whole process: the log is a process's, not a node's.
static ROLE: AtomicU8 = AtomicU8::new(b'M');

pub fn set_role(is_replica: bool) {
    ROLE.store(if is_replica { b'S' } else { b'M' }, Ordering::Relaxed);
}

struct RedisFormat;

impl<S, N> FormatEvent<S, N> for RedisFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR | Level::WARN => '#',
            Level::INFO => '*',
            Level::DEBUG => '-',
            Level::TRACE => '.',
        };
        let role = ROLE.load(Ordering::Relaxed) as char;
        write!(out, "{}:{role} {} {level} ", std::process::id(), timestamp())?;
        cx.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

fn timestamp() -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() as libc::time_t;
    let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values; localtime_r fills the second, and a zeroed tm is valid as well.
    let t = unsafe {
        libc::localtime_r(&seconds, parts.as_mut_ptr());
        parts.assume_init()
    };
    format!(
        "{:02} {} {} {:02}:{:02}:{:02}.{:03}",
        t.tm_mday,
        MONTHS[t.tm_mon.clamp(0, 11) as usize],
        1900 + t.tm_year,
        t.tm_hour,
        t.tm_min,
        t.tm_sec,
        since.subsec_millis()
    )
}

/// Starts logging to the standard output or to a file.
pub fn start(level: &str, path: &str) -> std::io::Result<()> {
    let level = match level {
        "debug" => LevelFilter::DEBUG,
        "verbose" | "notice" => LevelFilter::INFO,
        "warning" => LevelFilter::WARN,
        _ => LevelFilter::OFF,
    };
    let builder = tracing_subscriber::fmt().event_format(RedisFormat).with_max_level(level);
    if path.is_empty() {
        builder.init();
    } else {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        builder.with_writer(std::sync::Mutex::new(file)).init();
    }
    Ok(())
}
