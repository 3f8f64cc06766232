//! The Lua debugger: a script that stops before its lines, and the client that looks about meanwhile.
//!
//! Follows Redis 7.0's `ldb` (`eval.c`): commands, replies and texts are its own. Of what it differs in: `abort` cannot be
//! caught by the script, what `eval` runs can be ended, and lines, values and input have bounds.
//!
//! Nothing is read or written here: the debugger talks through a [`DebugClient`]. While a script is stopped it stands in
//! the hook that Lua calls before each line (`native.rs`), which asks [`Debugger::next`] what to do until the script is to
//! go on.
//!
//! An asynchronous session works on copies (`copies.rs`).

pub mod copies;
mod input;
pub(super) mod native;
mod show;
#[cfg(test)]
mod tests;

use super::control::{End, Running, Watch};
use super::native::CALL;
use super::sandbox::Sandbox;
use crate::Args;
use copies::{Copied, Copies};
use input::leading_number;
use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, MultiValue, Table, Value};
use native::Action;
use proto::{Mono, Now};
use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;

const BREAKPOINTS_MAX: usize = 64;
/// Bytes of a reply or value that are shown unless the client says otherwise; and the least that it can say.
const SHOWN_BYTES_DEFAULT: usize = 256;
const SHOWN_BYTES_MIN: usize = 60;
/// Lines around the current one that `list` shows.
const CONTEXT_DEFAULT: i64 = 5;
/// Input without a whole command at which the script ends.
const INPUT_BYTES_MAX: usize = 1 << 20;
/// What is told at one time; the rest is dropped, and so said. Choice: what nobody reads to its end. Redis has no bound.
const LINES_MAX: usize = 10_000;
const TOLD_BYTES_MAX: usize = 4 << 20;
/// Time without a stop after which a script is taken for one without end, where `busy-reply-threshold` says nothing.
const OVERDUE_MS: u64 = 5000;

const UNKNOWN: &[u8] = b"<error> Unknown Redis Lua debugger command or wrong number of arguments.";
const TRIMMED: &[u8] = b"<hint> The above reply was trimmed. Use 'maxlen 0' to disable trimming.";
const HELP: &[&str] = &[
    "Redis Lua debugger help:",
    "[h]elp               Show this help.",
    "[s]tep               Run current line and stop again.",
    "[n]ext               Alias for step.",
    "[c]ontinue           Run till next breakpoint.",
    "[l]ist               List source code around current line.",
    "[l]ist [line]        List source code around [line].",
    "                     line = 0 means: current position.",
    "[l]ist [line] [ctx]  In this form [ctx] specifies how many lines",
    "                     to show before/after [line].",
    "[w]hole              List all source code. Alias for 'list 1 1000000'.",
    "[p]rint              Show all the local variables.",
    "[p]rint <var>        Show the value of the specified variable.",
    "                     Can also show global vars KEYS and ARGV.",
    "[b]reak              Show all breakpoints.",
    "[b]reak <line>       Add a breakpoint to the specified line.",
    "[b]reak -<line>      Remove breakpoint from the specified line.",
    "[b]reak 0            Remove all breakpoints.",
    "[t]race              Show a backtrace.",
    "[e]val <code>        Execute some Lua code (in a different callframe).",
    "[r]edis <cmd>        Execute a Redis command.",
    "[m]axlen [len]       Trim logged Redis replies and Lua var dumps to len.",
    "                     Specifying zero as <len> means unlimited.",
    "[a]bort              Stop the execution of the script. In sync",
    "                     mode dataset changes will be retained.",
    "",
    "Debugger functions you can call from Lua scripts:",
    "redis.debug()        Produce logs in the debugger console.",
    "redis.breakpoint()   Stop execution like if there was a breakpoint in the",
    "                     next line of code.",
];

/// Who debugs a script, and the node that it runs on.
pub trait DebugClient {
    /// A session has begun, whatever becomes of its script.
    fn opens(&mut self);
    /// The script is about to run.
    fn begins(&mut self, running: &Arc<Running>);
    /// Waits for what the client sends, and appends it to `input`.
    fn read(&mut self, input: &mut Vec<u8>) -> Heard;
    /// Sends, if the client is still there.
    fn write(&mut self, bytes: &[u8]);
    fn now(&mut self) -> Now;
    /// Copies of keys in all databases, all as they are at one moment. `None`: the script is to end.
    fn copy(&mut self, keys: &[&[u8]]) -> Option<Vec<Copied>>;
}

/// What became of waiting for a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    More,
    /// The client is gone.
    Gone,
    /// The script is to end.
    End,
}

/// See the module's head.
pub struct Debugger {
    client: RefCell<Box<dyn DebugClient>>,
    state: RefCell<State>,
    /// The copies that the script works on, in an asynchronous session.
    copies: Option<Copies>,
    /// The time at which the script went on, until somebody takes it.
    resumed: Cell<Option<Now>>,
    is_open: Cell<bool>,
}

/// What is to be said when Lua's stack was looked through.
enum Asked {
    Nothing,
    /// All local variables, of which so many were there.
    Locals(usize),
    /// The variable of this name.
    Local(Vec<u8>),
    Trace,
    Eval,
}

struct State {
    lines: Vec<Vec<u8>>,
    breakpoints: Vec<i64>,
    /// It stops at the next line.
    is_stepping: bool,
    /// The script called `redis.breakpoint`.
    is_called: bool,
    /// Stopped; a hook within what the client runs meanwhile is not to stop.
    is_stopped: bool,
    /// It stopped because it took long.
    is_overdue: bool,
    line: i64,
    /// Not sent yet.
    told: Vec<Vec<u8>>,
    told_bytes: usize,
    dropped: usize,
    /// 0: no bound.
    shown_bytes: usize,
    has_hinted: bool,
    input: Vec<u8>,
    asked: Asked,
    since: Mono,
    overdue_ms: u64,
}

/// The lines of a script's text, without empty ones at its end.
fn lines_of(script: &[u8]) -> Vec<Vec<u8>> {
    let end = script.iter().rposition(|c| !matches!(c, b'\r' | b'\n')).map_or(0, |last| last + 1);
    if end == 0 { Vec::new() } else { script[..end].split(|c| *c == b'\n').map(<[u8]>::to_vec).collect() }
}

impl Debugger {
    /// A session for a script with this text. `is_on_copies`: it changes nothing, and others are served meanwhile.
    pub fn new(client: Box<dyn DebugClient>, script: &[u8], is_on_copies: bool) -> Rc<Debugger> {
        let state = State {
            lines: lines_of(script),
            breakpoints: Vec::new(),
            is_stepping: true,
            is_called: false,
            is_stopped: false,
            is_overdue: false,
            line: 0,
            told: Vec::new(),
            told_bytes: 0,
            dropped: 0,
            shown_bytes: SHOWN_BYTES_DEFAULT,
            has_hinted: false,
            input: Vec::new(),
            asked: Asked::Nothing,
            since: Mono(0),
            overdue_ms: OVERDUE_MS,
        };
        Rc::new(Debugger {
            client: RefCell::new(client),
            state: RefCell::new(state),
            copies: is_on_copies.then(Copies::default),
            resumed: Cell::new(None),
            is_open: Cell::new(false),
        })
    }

    fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }
    fn client(&self) -> RefMut<'_, Box<dyn DebugClient>> {
        self.client.borrow_mut()
    }

    /// The command was admitted: whatever it answers, the session's end is told before.
    pub(super) fn open(&self) {
        if !self.is_open.replace(true) {
            self.client().opens();
        }
    }
    /// Tells the end of the session. False: it has never begun.
    pub fn end(&self) -> bool {
        if self.is_open.get() {
            self.state().tell(b"<endsession>".to_vec());
            self.send();
        }
        self.is_open.get()
    }

    pub(super) fn begin(&self, running: &Arc<Running>, slow_ms: u64) {
        self.client().begins(running);
        let now = self.client().now();
        let mut state = self.state();
        state.since = now.mono;
        state.overdue_ms = if slow_ms > 0 { slow_ms } else { OVERDUE_MS };
    }

    pub(super) fn copies(&self) -> Option<&Copies> {
        self.copies.as_ref()
    }
    /// The time, if it has gone on since this was last asked.
    pub(super) fn take_now(&self) -> Option<Now> {
        self.resumed.take()
    }

    // What the script does, told while it goes step by step.

    /// `redis.breakpoint`.
    pub(super) fn stop_soon(&self) {
        self.state().is_called = true;
    }
    /// `redis.debug`.
    pub(super) fn tell_values(&self, values: &[Value], protected: &Table) {
        let mut line = format!("<debug> line {}: ", self.state().line).into_bytes();
        for (place, value) in values.iter().enumerate() {
            if place > 0 {
                line.extend(b", ");
            }
            show::put_value(value, protected, &mut line);
        }
        self.state().tell(line);
    }
    pub(super) fn tell_command(&self, args: Args) {
        const SHOWN_MAX: usize = 10;
        if !self.state().is_stepping {
            return;
        }
        let mut line = b"<redis>".to_vec();
        for arg in args.iter().take(SHOWN_MAX) {
            line.push(b' ');
            line.extend(&arg[..arg.len().min(show::BYTES_MAX)]);
        }
        if args.len() > SHOWN_MAX {
            line.extend(format!(" ... ({} more)", args.len() - SHOWN_MAX - 1).bytes());
        }
        self.state().tell(line);
    }
    pub(super) fn tell_reply(&self, reply: &[u8]) {
        let mut state = self.state();
        if state.is_stepping {
            let mut line = b"<reply> ".to_vec();
            show::put_reply(reply, &mut line);
            state.tell_trimmed(line);
        }
    }
    /// An error, as it stands on the wire or in a reply table.
    pub(super) fn tell_error(&self, text: &[u8]) {
        let mut state = self.state();
        if state.is_stepping {
            state.tell([b"<error> ", text].concat());
        }
    }
    /// An error of ours, of which Redis has no code where it is `ERR`, and the line's end where it is not.
    pub(super) fn tell_refusal(&self, text: &str) {
        match text.strip_prefix("ERR ") {
            Some(text) => self.tell_error(text.as_bytes()),
            None => self.tell_error(format!("-{text}  ").as_bytes()),
        }
    }

    fn send(&self) {
        let bytes = self.state().take_told();
        self.client().write(&bytes);
    }

    // The hook.

    /// Lua is about to run a line, or has run for a while (`is_count`). True: the script has stopped.
    fn stops(&self, is_count: bool, line: i64, is_script: bool) -> bool {
        let mut state = self.state();
        if state.is_stopped {
            return false;
        }
        state.line = line;
        let is_breakpoint = state.is_called || state.breakpoints.contains(&line);
        if !is_script {
            return false;
        }
        let mut is_overdue = false;
        if is_count && !state.is_stepping && !is_breakpoint {
            let waited_ms = self.client().now().mono.since(state.since).as_millis() as u64;
            is_overdue = waited_ms >= state.overdue_ms;
        }
        if !(state.is_stepping || is_breakpoint || is_overdue) {
            return false;
        }
        let reason = match (is_breakpoint, state.is_called, is_overdue) {
            (true, true, _) => "redis.breakpoint() called",
            (true, false, _) => "break point",
            (_, _, true) => "timeout reached, infinite loop?",
            _ => "step over",
        };
        (state.is_stepping, state.is_called) = (false, false);
        (state.is_stopped, state.is_overdue) = (true, is_overdue);
        state.tell(format!("* Stopped at {line}, stop reason = {reason}").into_bytes());
        state.tell_line(line);
        drop(state);
        self.send();
        true
    }

    /// What is to be done next, while the script is stopped.
    fn next(&self, console: &Console, lua: &Lua) -> mlua::Result<Action> {
        if self.settle(console)? {
            self.send();
        }
        loop {
            let taken = input::take_command(&mut self.state().input);
            let action = match taken {
                Ok(Some(args)) => self.carry_out(console, lua, &args)?,
                Ok(None) => self.hear(console, lua)?,
                Err(input::Nonsense) => Some(console.fail(lua, "ERR protocol error")?),
            };
            if let Some(action) = action {
                if matches!(action, Action::Go) {
                    self.go_on();
                }
                return Ok(action);
            }
        }
    }

    fn go_on(&self) {
        let now = self.client().now();
        let mut state = self.state();
        state.is_stopped = false;
        state.since = now.mono;
        self.resumed.set(Some(now));
    }

    /// Waits for more input.
    fn hear(&self, console: &Console, lua: &Lua) -> mlua::Result<Option<Action>> {
        if self.state().input.len() > INPUT_BYTES_MAX {
            return console.fail(lua, "ERR max client buffer reached").map(Some);
        }
        // Not in the state's place: it would be lent for as long as the client thinks.
        let mut input = std::mem::take(&mut self.state().input);
        let heard = self.client().read(&mut input);
        let mut state = self.state();
        state.input = input;
        match heard {
            Heard::More => Ok(None),
            Heard::End => Ok(Some(console.end())),
            Heard::Gone => {
                // The script runs to its end as if nobody had debugged it.
                state.breakpoints.clear();
                if !state.is_overdue {
                    return Ok(Some(Action::Go));
                }
                drop(state);
                console.fail(lua, "ERR timeout during Lua debugging with client closing connection").map(Some)
            }
        }
    }

    /// Carries out a command. `None`: it was answered.
    fn carry_out(&self, console: &Console, lua: &Lua, args: &[Vec<u8>]) -> mlua::Result<Option<Action>> {
        let name = args[0].to_ascii_lowercase();
        let mut state = self.state();
        match (name.as_slice(), &args[1..]) {
            (b"h" | b"help", _) => HELP.iter().for_each(|line| state.tell(line.as_bytes().to_vec())),
            (b"s" | b"step" | b"n" | b"next", _) => {
                state.is_stepping = true;
                return Ok(Some(Action::Go));
            }
            (b"c" | b"continue", _) => return Ok(Some(Action::Go)),
            (b"t" | b"trace", _) => {
                state.asked = Asked::Trace;
                return Ok(Some(Action::Frames));
            }
            (b"m" | b"maxlen", rest) => state.set_shown_bytes(rest),
            (b"b" | b"break", []) => state.list_breakpoints(),
            (b"b" | b"break", rest) => rest.iter().for_each(|arg| state.change_breakpoint(arg)),
            (b"e" | b"eval", rest) => match console.compile(lua, &rest.join(&b' '))? {
                Ok(function) => {
                    state.asked = Asked::Eval;
                    return Ok(Some(Action::Eval(function)));
                }
                Err(text) => state.tell([b"<error> ", &text[..]].concat()),
            },
            (b"a" | b"abort", _) => {
                return console.fail(lua, "ERR script aborted for user request").map(Some);
            }
            (b"r" | b"redis", rest @ [_, ..]) => {
                drop(state);
                return self.run_command(console, lua, rest);
            }
            (b"p" | b"print", [name]) => {
                state.asked = Asked::Local(name.clone());
                return Ok(Some(Action::Locals { is_all_levels: true }));
            }
            (b"p" | b"print", _) => {
                state.asked = Asked::Locals(0);
                return Ok(Some(Action::Locals { is_all_levels: false }));
            }
            (b"l" | b"list", rest) => {
                let number = |place: usize| rest.get(place).map(|arg| leading_number(arg));
                let around = number(0).filter(|line| *line > 0).unwrap_or(state.line);
                state.list(around, number(1).unwrap_or(CONTEXT_DEFAULT));
            }
            (b"w" | b"whole", _) => state.list(1, 1_000_000),
            _ => state.tell(UNKNOWN.to_vec()),
        }
        drop(state);
        self.send();
        Ok(None)
    }

    fn run_command(&self, console: &Console, lua: &Lua, args: &[Vec<u8>]) -> mlua::Result<Option<Action>> {
        // The command and its reply are told as they are step by step.
        self.state().is_stepping = true;
        let result = console.call(lua, args);
        self.state().is_stepping = false;
        result?;
        if console.watch().has_ended() {
            return Ok(Some(Action::End));
        }
        self.send();
        Ok(None)
    }

    // What was found on Lua's stack.

    /// A local variable. False: no more are wanted.
    fn on_local(&self, console: &Console, name: &[u8], value: &Value) -> bool {
        let mut state = self.state();
        match &mut state.asked {
            Asked::Locals(count) => {
                if memchr::memmem::find(name, b"(*temporary)").is_none() {
                    *count += 1;
                    let prefix = [b"<value> ", name, b" = "].concat();
                    state.tell_value(&prefix, value, &console.protected);
                }
                true
            }
            Asked::Local(wanted) if *wanted == name => {
                state.asked = Asked::Nothing;
                state.tell_value(b"<value> ", value, &console.protected);
                drop(state);
                self.send();
                false
            }
            _ => true,
        }
    }

    /// A function of the script that is being run.
    fn on_frame(&self, level: i64, name: Option<&[u8]>, line: i64) {
        let place = if level == 0 { &b"In "[..] } else { b"From " };
        let mut state = self.state();
        state.tell([place, name.unwrap_or(b"top level"), b":"].concat());
        state.tell_line(line);
    }

    /// What came of `eval`.
    fn on_result(&self, console: &Console, is_ok: bool, value: &Value) {
        let mut state = self.state();
        match is_ok {
            true => state.tell_value(b"<retval> ", value, &console.protected),
            false => {
                let text = match value {
                    Value::Table(table) => super::convert::ScriptError::of(table).map(|error| error.text),
                    value => super::args::to_bytes(value),
                };
                let mut line = b"<error> ".to_vec();
                match text {
                    Some(text) => line.extend(text),
                    None => show::put_value(value, &console.protected, &mut line),
                }
                state.tell(line);
            }
        }
    }

    /// Says what is left to be said when all was found. False: nothing was asked for.
    fn settle(&self, console: &Console) -> mlua::Result<bool> {
        let mut state = self.state();
        match std::mem::replace(&mut state.asked, Asked::Nothing) {
            Asked::Nothing => return Ok(false),
            Asked::Locals(0) => state.tell(b"No local variables in the current context.".to_vec()),
            Asked::Local(name) if matches!(name.as_slice(), b"KEYS" | b"ARGV") => {
                let value: Value = console.globals.raw_get(&*String::from_utf8_lossy(&name))?;
                state.tell_value(b"<value> ", &value, &console.protected);
            }
            Asked::Local(_) => state.tell(b"No such variable.".to_vec()),
            Asked::Locals(_) | Asked::Trace | Asked::Eval => {}
        }
        Ok(true)
    }
}

impl std::fmt::Debug for Debugger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Debugger").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

impl State {
    fn tell(&mut self, line: Vec<u8>) {
        if self.told.len() >= LINES_MAX || self.told_bytes + line.len() > TOLD_BYTES_MAX {
            self.dropped += 1;
            return;
        }
        self.told_bytes += line.len();
        self.told.push(line);
    }
    fn tell_trimmed(&mut self, mut line: Vec<u8>) {
        if self.shown_bytes == 0 || line.len() <= self.shown_bytes {
            return self.tell(line);
        }
        line.truncate(self.shown_bytes);
        line.extend(b" ...");
        self.tell(line);
        if !std::mem::replace(&mut self.has_hinted, true) {
            self.tell(TRIMMED.to_vec());
        }
    }
    fn tell_value(&mut self, prefix: &[u8], value: &Value, protected: &Table) {
        let mut line = prefix.to_vec();
        show::put_value(value, protected, &mut line);
        self.tell_trimmed(line);
    }

    /// What was told, as it goes to the client: an array of status replies.
    fn take_told(&mut self) -> Vec<u8> {
        if self.dropped > 0 {
            let hint = format!("<hint> {} more lines are not shown.", std::mem::take(&mut self.dropped));
            self.told.push(hint.into_bytes());
        }
        let mut out = format!("*{}\r\n", self.told.len()).into_bytes();
        for line in self.told.drain(..) {
            out.push(b'+');
            out.extend(line.into_iter().map(|c| if matches!(c, b'\r' | b'\n') { b' ' } else { c }));
            out.extend(b"\r\n");
        }
        self.told_bytes = 0;
        out
    }

    fn tell_line(&mut self, number: i64) {
        let place = usize::try_from(number - 1).ok();
        let line = place.and_then(|place| self.lines.get(place));
        let text = line.map_or(&b"<out of range source code line>"[..], |line| line);
        let prefix = match (number == self.line, self.breakpoints.contains(&number)) {
            (true, true) => "->#",
            (true, false) => "-> ",
            (false, true) => "  #",
            (false, false) => "   ",
        };
        let line = [format!("{prefix}{number:<3} ").as_bytes(), text].concat();
        self.tell(line);
    }
    /// Lines around one.
    fn list(&mut self, around: i64, context: i64) {
        let (first, last) = (around.saturating_sub(context), around.saturating_add(context));
        for number in first.max(1)..=last.min(self.lines.len() as i64) {
            self.tell_line(number);
        }
    }

    fn list_breakpoints(&mut self) {
        if self.breakpoints.is_empty() {
            return self.tell(b"No breakpoints set. Use 'b <line>' to add one.".to_vec());
        }
        self.tell(format!("{} breakpoints set:", self.breakpoints.len()).into_bytes());
        self.breakpoints.clone().into_iter().for_each(|line| self.tell_line(line));
    }
    /// 0: all go; a negative number: this one goes.
    fn change_breakpoint(&mut self, arg: &[u8]) {
        let Some(number) = crate::number::parse_i64(arg) else {
            return self.tell([b"Invalid argument:'", arg, b"'"].concat());
        };
        let text: &[u8] = match number {
            0 => {
                self.breakpoints.clear();
                b"All breakpoints removed."
            }
            ..0 => match self.breakpoints.iter().position(|line| Some(*line) == number.checked_neg()) {
                Some(place) => {
                    self.breakpoints.remove(place);
                    b"Breakpoint removed."
                }
                None => b"No breakpoint in the specified line.",
            },
            _ if self.breakpoints.len() == BREAKPOINTS_MAX => b"Too many breakpoints set.",
            _ if number > self.lines.len() as i64 || self.breakpoints.contains(&number) => {
                b"Wrong line number."
            }
            _ => {
                self.breakpoints.push(number);
                return self.list(number, 1);
            }
        };
        self.tell(text.to_vec());
    }

    fn set_shown_bytes(&mut self, args: &[Vec<u8>]) {
        if let [arg] = args {
            self.has_hinted = true;
            self.shown_bytes = match leading_number(arg) {
                0 => 0,
                bytes => usize::try_from(bytes).unwrap_or(0).max(SHOWN_BYTES_MIN),
            };
        }
        let text = match self.shown_bytes {
            0 => "<value> replies are unlimited.".to_string(),
            bytes => format!("<value> replies are truncated at {bytes} bytes."),
        };
        self.tell(text.into_bytes());
    }
}

/// The interpreter as the debugger uses it.
pub(super) struct Console {
    debugger: Rc<Debugger>,
    /// The tables behind read-only ones.
    protected: Table,
    /// The table behind the globals, and what scripts take for it.
    globals: Table,
    environment: Table,
    holder: Table,
    watch: *const Watch,
}

impl Console {
    /// Makes an interpreter's scripts stop for the debugger. `watch` lives as long as the interpreter.
    pub fn open(
        lua: &Lua,
        debugger: Rc<Debugger>,
        sandbox: &Sandbox,
        holder: &Table,
        watch: &Watch,
    ) -> mlua::Result<()> {
        watch.set_debugger(debugger.clone());
        let console = Console {
            debugger,
            protected: sandbox.protected.clone(),
            globals: sandbox.behind.clone(),
            environment: sandbox.globals.clone(),
            holder: holder.clone(),
            watch,
        };
        native::install(lua, console)
    }

    fn watch(&self) -> &Watch {
        // SAFETY: the console is owned by a closure of the interpreter, which the watch outlives.
        #[allow(unsafe_code)]
        unsafe {
            &*self.watch
        }
    }

    /// Ends the script with an error that it cannot catch.
    fn fail(&self, lua: &Lua, text: &str) -> mlua::Result<Action> {
        self.watch().set_end(End::Aborted);
        Ok(Action::Fail(super::convert::error_table(lua, text)?))
    }
    /// Ends the script, which is told so.
    fn end(&self) -> Action {
        self.watch().set_end(End::Killed);
        Action::End
    }

    /// Compiles an expression, or statements. `Err`: what the compiler says.
    fn compile(&self, lua: &Lua, code: &[u8]) -> mlua::Result<Result<Function, Vec<u8>>> {
        if code.first() == Some(&b'\x1b') {
            return Ok(Err(b"ldb_eval:1: unexpected symbol near 'char(27)'".to_vec()));
        }
        let load = |code: &[u8]| {
            let chunk = lua.load(code).set_name("@ldb_eval").set_mode(ChunkMode::Text);
            chunk.set_environment(self.environment.clone()).into_function()
        };
        match load(&[b"return ", code].concat()).or_else(|_| load(code)) {
            Ok(function) => Ok(Ok(function)),
            Err(mlua::Error::SyntaxError { message, .. }) => Ok(Err(message.into_bytes())),
            Err(mlua::Error::MemoryError(_)) => Ok(Err(b"not enough memory".to_vec())),
            Err(error) => Err(error),
        }
    }

    /// Calls a command as a script does.
    fn call(&self, lua: &Lua, args: &[Vec<u8>]) -> mlua::Result<()> {
        let call: Function = self.holder.raw_get(super::native::HELD)?;
        let mut values = MultiValue::new();
        for arg in args {
            values.push_back(Value::String(lua.create_string(arg)?));
        }
        call.call::<MultiValue>((CALL, values)).map(drop)
    }
}
