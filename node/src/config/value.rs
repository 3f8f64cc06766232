//! Kinds of values and their canonical texts.

/// What a directive may hold.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `yes` or `no`.
    Bool,
    /// A whole number between the bounds.
    Int(i64, i64),
    /// Bytes, with units such as `kb` and `mb`; between the bounds.
    Memory(u64, u64),
    /// Bytes, or a negative count, as `list-max-listpack-size`.
    Enum(&'static [&'static str]),
    /// Some of these words, in this order.
    Flags(&'static [&'static str]),
    /// Host and port of a primary, or nothing.
    Primary,
    Text,
    /// A template of the process's title.
    Title,
    /// Text that logs must not show.
    Secret,
    /// Numbers from 0 to 100.
    Percentiles,
    /// Bytes, or so many per cent (0 to 100) of `maxmemory`.
    MemoryOrPercent,
    /// Several words, kept with a space between.
    Words,
    /// Pairs of seconds and changes; each line adds one, `""` clears.
    Save,
    /// Classes with three limits each.
    OutputLimits,
    /// Letters of keyspace notification classes.
    Notify,
    /// Octal permissions.
    Octal,
}

impl Kind {
    /// Whether several lines of a file add up.
    pub fn is_accumulating(&self) -> bool {
        matches!(self, Kind::Save | Kind::OutputLimits)
    }

    /// Whether logs must not show its values.
    pub fn is_secret(&self) -> bool {
        matches!(self, Kind::Secret)
    }
    /// Whether it says itself what is wrong with no words at all.
    pub fn checks_number(&self) -> bool {
        self.is_accumulating() || matches!(self, Kind::Flags(_))
    }

    /// The canonical text of what `words` say; `old` is the present one. `Err`: what is wrong with them.
    pub fn canonical(&self, words: &[String], old: &str) -> Result<String, String> {
        let one = || match words {
            [word] => Ok(word.as_str()),
            _ => Err("wrong number of arguments".to_string()),
        };
        match self {
            Kind::Bool => match one()?.to_ascii_lowercase().as_str() {
                "yes" => Ok("yes".into()),
                "no" => Ok("no".into()),
                _ => Err("argument must be 'yes' or 'no'".into()),
            },
            Kind::Int(min, max) => {
                let n: i64 =
                    one()?.parse().map_err(|_| "argument couldn't be parsed into an integer".to_string())?;
                in_bounds(n, *min, *max).map(|n| n.to_string())
            }
            Kind::Memory(min, max) => {
                let n = parse_memory(one()?).ok_or("argument must be a memory value")?;
                in_bounds(n, *min, *max).map(|n| n.to_string())
            }
            Kind::Enum(names) => {
                let word = one()?;
                let found = names.iter().find(|n| n.eq_ignore_ascii_case(word));
                found
                    .map(|n| n.to_string())
                    .ok_or_else(|| format!("argument(s) must be one of the following: {}", names.join(", ")))
            }
            Kind::Flags(names) => {
                let words: Vec<&str> = words.iter().flat_map(|w| w.split_whitespace()).collect();
                let is = |name: &str| words.iter().any(|w| w.eq_ignore_ascii_case(name));
                let known: Vec<&str> = names.iter().copied().filter(|n| is(n)).collect();
                let is_known = |word: &&str| names.iter().any(|n| n.eq_ignore_ascii_case(word));
                match !words.is_empty() && words.iter().all(is_known) {
                    true => Ok(known.join(" ")),
                    false => Err(format!("argument(s) must be one of the following: {}", names.join(", "))),
                }
            }
            Kind::Primary => {
                let words: Vec<&str> = words.iter().flat_map(|w| w.split_whitespace()).collect();
                match words.as_slice() {
                    [] => Ok(String::new()),
                    [no, one] if no.eq_ignore_ascii_case("no") && one.eq_ignore_ascii_case("one") => {
                        Ok(String::new())
                    }
                    [host, port] => match port.parse::<u16>() {
                        Ok(port) => Ok(format!("{host} {port}")),
                        Err(_) => Err("Invalid master port".into()),
                    },
                    _ => Err("wrong number of arguments".into()),
                }
            }
            Kind::Text | Kind::Secret => Ok(one()?.to_string()),
            Kind::Title => match crate::title::is_valid(one()?) {
                true => Ok(one()?.to_string()),
                false => Err("template format is invalid or contains unknown variables".into()),
            },
            Kind::Percentiles => percentiles(words),
            Kind::MemoryOrPercent => memory_or_percent(one()?),
            Kind::Words => Ok(words.iter().flat_map(|w| w.split_whitespace()).collect::<Vec<_>>().join(" ")),
            Kind::Save => save(words, old),
            Kind::OutputLimits => output_limits(words, old),
            Kind::Notify => {
                let set = engine::settings::notify::parse(one()?);
                set.map(engine::settings::notify::format)
                    .ok_or_else(|| "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_string())
            }
            Kind::Octal => {
                let word = one()?;
                u32::from_str_radix(word, 8).map_err(|_| "argument must be octal".to_string())?;
                Ok(word.to_string())
            }
        }
    }
}

fn in_bounds<T: PartialOrd + std::fmt::Display>(n: T, min: T, max: T) -> Result<T, String> {
    if n < min || n > max {
        return Err(format!("argument must be between {min} and {max} inclusive"));
    }
    Ok(n)
}

fn memory_or_percent(word: &str) -> Result<String, String> {
    const ERROR: &str = "argument must be a memory or percent value";
    match word.strip_suffix('%') {
        Some(percent) => match percent.parse::<u32>() {
            Ok(percent) if percent <= 100 => Ok(format!("{percent}%")),
            Ok(_) => Err("percentage argument must be less or equal to 100".into()),
            Err(_) => Err(ERROR.into()),
        },
        None => parse_memory(word).map(|n| n.to_string()).ok_or_else(|| ERROR.into()),
    }
}

/// Each as short as it can be written.
fn percentiles(words: &[String]) -> Result<String, String> {
    const ERROR: &str = "latency-tracking-info-percentiles should be numbers between 0.0 and 100.0";
    let number = |word: &str| match word.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent.to_string()),
        _ => Err(ERROR.to_string()),
    };
    let words: Result<Vec<String>, String> =
        words.iter().flat_map(|w| w.split_whitespace()).map(number).collect();
    Ok(words?.join(" "))
}

/// Bytes from a text such as `100`, `64mb` or `1g`. Follows redis.conf: `k` is 1000, `kb` 1024.
pub fn parse_memory(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let unit = match &lower[digits..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    lower[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

fn save(words: &[String], old: &str) -> Result<String, String> {
    let words: Vec<&str> = words.iter().flat_map(|w| w.split_whitespace()).collect();
    if words.is_empty() {
        return Ok(String::new());
    }
    let is_pair = words.len().is_multiple_of(2) && words.iter().all(|w| w.parse::<u32>().is_ok());
    if !is_pair || words.iter().step_by(2).any(|seconds| *seconds == "0") {
        return Err("Invalid save parameters".into());
    }
    let text = words.join(" ");
    Ok(if old.is_empty() { text } else { format!("{old} {text}") })
}

const CLASSES: [&str; 3] = ["normal", "slave", "pubsub"];

fn output_limits(words: &[String], old: &str) -> Result<String, String> {
    let words: Vec<&str> = words.iter().flat_map(|w| w.split_whitespace()).collect();
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.".into());
    }
    let mut limits: Vec<[String; 4]> = old
        .split_whitespace()
        .collect::<Vec<_>>()
        .chunks_exact(4)
        .map(|c| [c[0], c[1], c[2], c[3]].map(String::from))
        .collect();
    for class in words.chunks_exact(4) {
        let name = if class[0].eq_ignore_ascii_case("replica") { "slave" } else { class[0] };
        let place = CLASSES.iter().position(|c| c.eq_ignore_ascii_case(name));
        let place = place.ok_or("Invalid client class specified in buffer limit configuration.")?;
        let hard = parse_memory(class[1])
            .ok_or("Error in hard, soft or soft_seconds setting in buffer limit configuration.")?;
        let soft = parse_memory(class[2])
            .ok_or("Error in hard, soft or soft_seconds setting in buffer limit configuration.")?;
        let seconds: u32 = class[3]
            .parse()
            .map_err(|_| "Error in hard, soft or soft_seconds setting in buffer limit configuration.")?;
        let entry = [CLASSES[place].to_string(), hard.to_string(), soft.to_string(), seconds.to_string()];
        match limits.iter_mut().find(|l| l[0] == CLASSES[place]) {
            Some(limit) => *limit = entry,
            None => limits.push(entry),
        }
    }
    limits.sort_by_key(|l| CLASSES.iter().position(|c| *c == l[0]));
    Ok(limits.iter().map(|l| l.join(" ")).collect::<Vec<_>>().join(" "))
}
