//! Scripts as clients see them. Replies and texts are those of Redis 7.0.15.

use crate::testing::Runner;

fn eval(script: &str) -> String {
    Runner::default().eval(script)
}

/// An error raised at line 1 of a script, without what tells the script.
fn error(script: &str) -> String {
    let reply = eval(script);
    let end = reply.find(" script: ").unwrap_or(reply.len());
    assert!(reply.starts_with('-'), "{reply}");
    reply[1..end].to_string()
}

#[test]
fn values_become_replies() {
    for (value, reply) in [
        ("1", ":1\r\n"),
        ("-3.9", ":-3\r\n"),
        ("1/0", ":-9223372036854775808\r\n"),
        ("'a'", "$1\r\na\r\n"),
        ("true", ":1\r\n"),
        ("false", "$-1\r\n"),
        ("nil", "$-1\r\n"),
        ("{1,'a',{2}}", "*3\r\n:1\r\n$1\r\na\r\n*1\r\n:2\r\n"),
        ("{1,nil,3}", "*1\r\n:1\r\n"),
        ("{ok='fine'}", "+fine\r\n"),
        ("{err='My error'}", "-My error\r\n"),
        ("{double=3.5}", "$3\r\n3.5\r\n"),
        ("{map={a=1}}", "*2\r\n$1\r\na\r\n:1\r\n"),
        ("{set={a=true}}", "*1\r\n$1\r\na\r\n"),
        ("{big_number='12'}", "$2\r\n12\r\n"),
        ("{verbatim_string={format='txt',string='x'}}", "$1\r\nx\r\n"),
        ("redis.error_reply('My')", "-ERR My\r\n"),
        ("redis.error_reply('-My text')", "-My text\r\n"),
        ("redis.status_reply('a\\r\\nb')", "+a  b\r\n"),
    ] {
        assert!(eval(&format!("return {value}")).starts_with(reply), "{value}");
    }
}

#[test]
fn values_become_replies_of_resp3() {
    let mut r = Runner::default();
    r.session.is_resp3 = true;
    assert_eq!(r.eval("return {nil}"), "*0\r\n");
    assert_eq!(r.eval("return true"), ":1\r\n");
    assert_eq!(r.eval("redis.setresp(3) return {true,{double=1.5}}"), "*2\r\n#t\r\n,1.5\r\n");
    assert_eq!(r.eval("return {map={a=1}}"), "%1\r\n$1\r\na\r\n:1\r\n");
    assert_eq!(r.eval("return {verbatim_string={format='abcd',string='x'}}"), "=5\r\nabc:x\r\n");
}

#[test]
fn replies_become_values() {
    let mut r = Runner::default();
    r.all(&["HSET h a 1", "ZADD z 1.5 m"]);
    assert_eq!(r.eval("return redis.call('hgetall','h')[1]"), "$1\r\na\r\n");
    assert_eq!(r.eval("return redis.call('set','k','v').ok"), "$2\r\nOK\r\n");
    assert_eq!(r.eval("return tostring(redis.call('get','none'))"), "$5\r\nfalse\r\n");
    assert_eq!(r.eval("redis.setresp(3) return redis.call('hgetall','h').map.a"), "$1\r\n1\r\n");
    assert_eq!(r.eval("redis.setresp(3) return redis.call('zscore','z','m').double * 2"), ":3\r\n");
    assert_eq!(r.eval("redis.setresp(3) return type(redis.call('get','none'))"), "$3\r\nnil\r\n");
}

#[test]
fn keys_and_arguments_are_binary() {
    let mut r = Runner::default();
    let key: &[u8] = b"\0\xFF\r\n";
    r.run_args(&[b"EVAL", b"redis.call('set',KEYS[1],ARGV[1])", b"1", key, b"v\0"]);
    assert_eq!(r.run_args(&[b"GET", key]), "$2\r\nv\0\r\n");
    r.eval("redis.call('set','n',0.1) redis.call('append','n',2^53)");
    assert_eq!(r.run("GET n"), "$35\r\n0.100000000000000019007199254740992\r\n");
}

#[test]
fn errors_tell_where_they_were_raised() {
    let reply = eval("\n\nreturn redis.call('incr')");
    assert!(
        reply.starts_with("-ERR Wrong number of args calling Redis command from script script: "),
        "{reply}"
    );
    assert!(reply.ends_with(", on @user_script:3.\r\n"), "{reply}");
    assert_eq!(error("redis.call('nope')"), "ERR Unknown Redis command called from script");
    assert_eq!(error("redis.call()"), "ERR Please specify at least one argument for this redis lib call");
    assert_eq!(error("redis.call({})"), "ERR Lua redis lib command arguments must be strings or integers");
    assert_eq!(error("redis.call('multi')"), "ERR This Redis command is not allowed from script");
    assert_eq!(error("error('x')"), "ERR user_script:1: x");
    assert_eq!(error("error({err='My x'})"), "My x");
    assert_eq!(error("error()"), "ERR nil");
}

#[test]
fn pcall_catches_errors_of_commands_as_texts() {
    let mut r = Runner::default();
    r.run("RPUSH l a");
    let wrong = "WRONGTYPE Operation against a key holding the wrong kind of value";
    assert_eq!(r.eval("return redis.pcall('get','l').err"), format!("${}\r\n{wrong}\r\n", wrong.len()));
    assert_eq!(r.eval("return redis.pcall('get','l')"), format!("-{wrong}\r\n"));
    let text = "local ok, e = pcall(redis.call,'get','l') return e";
    assert_eq!(r.eval(text), format!("${}\r\n{wrong}\r\n", wrong.len()));
}

#[test]
fn numbers_of_keys_are_checked() {
    let mut r = Runner::default();
    assert_eq!(r.run("EVAL 'return 1' x"), "-ERR value is not an integer or out of range\r\n");
    assert_eq!(r.run("EVAL 'return 1' 1"), "-ERR Number of keys can't be greater than number of args\r\n");
    assert_eq!(r.run("EVAL 'return 1' -1"), "-ERR Number of keys can't be negative\r\n");
    let compile = "-ERR Error compiling script (new function): user_script:1: '=' expected near 'x'\r\n";
    assert_eq!(r.run("EVAL 'x x' 0"), compile);
}

#[test]
fn the_cache_is_asked_by_sha1() {
    let mut r = Runner::default();
    let none = "-NOSCRIPT No matching script. Please use EVAL.\r\n";
    let sha = "4ca238f611c9d0ae4e9a75a5dbac22aedc379801";
    assert_eq!(r.run(&format!("EVALSHA {sha} 0")), none);
    assert_eq!(r.run("EVALSHA x 0"), none);
    assert_eq!(r.run("SCRIPT LOAD 'return 5'"), format!("$40\r\n{sha}\r\n"));
    assert_eq!(r.run(&format!("EVALSHA {} 0", sha.to_uppercase())), ":5\r\n");
    assert_eq!(r.run(&format!("SCRIPT EXISTS {sha} x")), "*2\r\n:1\r\n:0\r\n");
    assert_eq!(r.run("SCRIPT FLUSH x"), "-ERR SCRIPT FLUSH only support SYNC|ASYNC option\r\n");
    assert_eq!(r.run("SCRIPT FLUSH ASYNC"), "+OK\r\n");
    assert_eq!(r.run(&format!("EVALSHA {sha} 0")), none);
    assert_eq!(r.run("SCRIPT KILL"), "-NOTBUSY No scripts in execution right now.\r\n");
}

#[test]
fn globals_are_protected() {
    let read_only = "ERR user_script:1: Attempt to modify a readonly table";
    for script in [
        "x = 1",
        "_G.x = 1",
        "redis.call = 1",
        "redis = 1",
        "string.x = 1",
        "cjson.encode = nil",
        "KEYS = {}",
        "getmetatable(_G).__index = {}",
        "getmetatable('').__index = {}",
        "local _, t = pairs(redis); t.call = 1",
        "for k, v in pairs(_G) do if type(v) == 'table' and k ~= 'KEYS' and k ~= 'ARGV' then v.x = 1 end end",
        "loadstring('x = 1', '@user_script')()",
    ] {
        assert_eq!(error(script), read_only, "{script}");
    }
    for script in
        ["rawset(_G,'x',1)", "rawset(redis,'call',1)", "setmetatable(_G,{})", "table.insert(string,1)"]
    {
        assert_eq!(error(script), read_only.replace("user_script:1: ", ""), "{script}");
    }
}

#[test]
fn what_is_not_there_is_an_error() {
    let names = [
        "os", "io", "package", "require", "module", "dofile", "loadfile", "print", "debug", "newproxy",
        "getfenv", "setfenv", "x", "server",
    ];
    for name in names {
        let text =
            format!("ERR user_script:1: Script attempted to access nonexistent global variable '{name}'");
        assert_eq!(error(&format!("return {name}")), text);
    }
}

#[test]
fn protected_tables_can_be_read() {
    assert_eq!(eval("local n = 0 for k in pairs(redis) do n = n + 1 end return n"), ":23\r\n");
    assert_eq!(eval("return type(next(math))"), "$6\r\nstring\r\n");
    assert_eq!(eval("return rawget(redis,'LOG_WARNING')"), ":3\r\n");
    assert_eq!(eval("return ('x'):upper()"), "$1\r\nX\r\n");
    assert_eq!(eval("return rawget(_G,'x')"), "$-1\r\n");
}

#[test]
fn compiled_chunks_are_refused() {
    assert_eq!(eval("return loadstring(string.dump(function() return 1 end))"), "$-1\r\n");
    assert_eq!(eval("return load(function() return '\\27Lua' end)"), "$-1\r\n");
    assert_eq!(
        eval("local p = {'return ', '7'} return load(function() return table.remove(p, 1) end)()"),
        ":7\r\n"
    );
}

#[test]
fn one_script_leaves_nothing_for_the_next() {
    let mut r = Runner::default();
    r.eval("KEYS.x = 1 redis.setresp(3) collectgarbage('stop')");
    assert_eq!(r.eval("return KEYS.x"), "$-1\r\n");
    assert_eq!(r.eval("return true"), ":1\r\n");
    r.eval("redis.call('set','k','v')");
    assert_eq!(r.run("EVAL 'return #KEYS' 1 k"), ":1\r\n");
    assert_eq!(r.eval("return #KEYS"), ":0\r\n");
}

#[test]
fn runaway_scripts_end_with_an_error() {
    let mut r = Runner::default();
    let reply = r.eval("local s = 'x' while true do s = s .. s end");
    assert!(reply.ends_with("not enough memory\r\n"), "{reply}");
    let reply = r.eval("local t = {} while true do t[#t + 1] = {} end");
    assert!(reply.ends_with("not enough memory\r\n"), "{reply}");
    assert_eq!(r.eval("return 1"), ":1\r\n");
    assert!(r.eval("local function f() return 1 + f() end return f()").contains("stack overflow"));
    assert!(r.eval("local function f() coroutine.wrap(f)() end f()").contains("stack overflow"));
    assert!(r.eval("local function f() pcall(f) error('x') end f()").starts_with('-'));
    let pattern = "return string.find(string.rep('a', 300000), string.rep('a?', 300000))";
    assert!(r.eval(pattern).contains("pattern too complex"));
    let pattern = "return string.gsub(string.rep('a', 300000), string.rep('a?', 300000), '', 1)";
    assert!(r.eval(pattern).contains("pattern too complex"));
    assert_eq!(
        r.eval("return string.find('-' .. string.rep('-', 3000), string.rep('-', 3000), 1, true)"),
        ":1\r\n"
    );
    let nested = "local function f() string.gsub('a', 'a', f) end f()";
    assert!(r.eval(nested).contains("stack overflow"));
    assert!(r.eval("return __redis__err__handler()").starts_with("-ERR"));
}

#[test]
fn guarded_functions_name_themselves_and_the_line() {
    for (script, text) in [
        (
            "setmetatable(1, 2)",
            "ERR user_script:1: bad argument #1 to 'setmetatable' (table expected, got number)",
        ),
        ("string.find()", "ERR user_script:1: bad argument #1 to 'find' (string expected, got no value)"),
        (
            "collectgarbage('x')",
            "ERR user_script:1: bad argument #1 to 'collectgarbage' (invalid option 'x')",
        ),
        ("coroutine.resume(1)", "ERR user_script:1: bad argument #1 to 'resume' (coroutine expected)"),
    ] {
        assert_eq!(error(script), text);
    }
    assert_eq!(
        eval("return {coroutine.resume(coroutine.create(function() return 1, 2 end))}"),
        "*3\r\n:1\r\n:1\r\n:2\r\n"
    );
    assert!(eval("next({}, 1)").ends_with("on @user_script:1.\r\n"));
    assert_eq!(eval("return {xpcall(function() error('x', 0) end, type)}"), "*2\r\n$-1\r\n$6\r\nstring\r\n");
}

#[test]
fn cycles_are_errors() {
    let mut r = Runner::default();
    assert!(r.eval("local t = {} t[1] = t return t").ends_with("-ERR reached lua stack limit\r\n"));
    assert!(r.eval("local t = {} t.x = t return cjson.encode(t)").contains("excessive nesting (1001)"));
    assert!(r.eval("local t = {} t[1] = t return cmsgpack.pack(t)").starts_with("$17\r\n"));
    let wide = "local t = {string.rep('x', 2^20)} for i = 1, 60 do t = {t, t} end return cjson.encode(t)";
    assert!(r.eval(wide).contains("not enough memory"));
}

#[test]
fn shebang_flags_are_obeyed() {
    let mut r = Runner::default();
    let refused = "ERR Write commands are not allowed from read-only scripts.";
    assert_eq!(error("#!lua flags=no-writes\nreturn redis.call('set','k','v')"), refused);
    assert_eq!(r.eval("#!lua\n  return 1"), ":1\r\n");
    assert_eq!(r.eval("#!lua"), "-ERR Invalid script shebang\r\n");
    let args: [&[u8]; 3] = [b"EVAL_RO", b"#!lua\nreturn 1", b"0"];
    let text = "-ERR Can not execute a script with write flag using *_ro command.\r\n";
    assert_eq!(r.run_args(&args), text);
    let reply = r.run("EVAL_RO \"return redis.call('set','k','v')\" 1 k");
    assert!(reply.starts_with(&format!("-{refused}")), "{reply}");
}

#[test]
fn memory_is_looked_at_before_the_first_write() {
    let mut r = Runner::default();
    r.run("SET big 12345678901234567890");
    r.settings.maxmemory = 1;
    let oom = "-OOM command not allowed when used memory > 'maxmemory'.";
    assert!(r.eval("redis.call('set','x','y')").starts_with(oom));
    assert_eq!(r.eval("redis.call('get','x') return 1"), ":1\r\n");
    assert_eq!(r.eval("redis.call('del','x') redis.call('set','x','y') return 1"), ":1\r\n");
    assert_eq!(r.eval("#!lua\nreturn 1"), format!("{oom}\r\n"));
    assert_eq!(r.eval("#!lua flags=allow-oom\nredis.call('set','x','y') return 1"), ":1\r\n");
}

#[test]
fn a_replica_refuses_only_writes() {
    let mut r = Runner::default();
    r.status.is_replica = true;
    r.status.is_link_up = true;
    assert_eq!(r.eval("return redis.call('get','x')"), "$-1\r\n");
    let reply = r.eval("return redis.call('set','x','y')");
    assert!(reply.starts_with("-READONLY You can't write against a read only replica. script: "), "{reply}");
    assert_eq!(r.eval("#!lua\nreturn 1"), "-READONLY You can't write against a read only replica.\r\n");
    r.status.is_link_up = false;
    r.settings.replica_serve_stale_data = false;
    assert!(r.eval("return 1").starts_with("-MASTERDOWN"));
    assert_eq!(r.eval("#!lua flags=allow-stale,no-writes\nreturn 1"), ":1\r\n");
}

#[test]
fn effects_are_replayed_as_one_unit() {
    let mut r = Runner::default();
    r.eval("redis.call('set','a','1') redis.call('incr','b') redis.call('get','a')");
    assert_eq!(r.replayed(), ["set a 1; incr b"]);
    r.eval("return redis.call('get','a')");
    assert!(r.replayed().is_empty());
    // What was done before an error stays done.
    r.eval("redis.call('set','a','2') redis.call('nope')");
    assert_eq!(r.replayed(), ["set a 2"]);
}

#[test]
fn select_holds_for_the_script_alone() {
    let mut r = Runner::default();
    r.eval("redis.call('set','k','v')");
    assert_eq!(r.run("GET k"), "$1\r\nv\r\n");
    assert_eq!(r.session.db, 0);
}

#[test]
fn commands_for_the_whole_database_work_in_scripts() {
    let mut r = Runner::default();
    r.run("SET k v");
    assert_eq!(r.eval("redis.call('set','x','y') return redis.call('dbsize')"), ":2\r\n");
    assert_eq!(r.eval("return #redis.call('k' .. 'eys', '*')"), ":2\r\n");
    // Its name is not in the text, and it has written: it may be run again.
    let script = "redis.call('set','x','z') return redis.call('FLUSH' .. 'ALL')";
    assert!(r.eval(script).contains("did not declare"));
    assert_eq!(r.eval(script), "+OK\r\n");
    assert_eq!(r.run("DBSIZE"), ":0\r\n");
}

#[test]
fn a_held_slot_makes_the_script_run_again() {
    let mut r = Runner::default();
    let keyspace = r.engine.keyspace.clone();
    let held = keyspace.lock(proto::Slot::of_key(b"x")).unwrap();
    let script: &[u8] = b"return redis.call('set','x','1')";
    let outcome = r.first_attempt(&[b"EVAL", script, b"0"]);
    assert!(matches!(outcome, crate::Outcome::NeedsGate));
    drop(held);
    // From now on with the gate closed at once.
    assert!(matches!(r.first_attempt(&[b"EVAL", script, b"0"]), crate::Outcome::NeedsGate));
    assert!(matches!(r.first_attempt(&[b"EVAL", b"redis.call('get','x')", b"0"]), crate::Outcome::Done));
    assert_eq!(r.run("GET x"), "$-1\r\n");
}

#[test]
fn scripts_run_in_transactions() {
    let mut r = Runner::default();
    r.all(&[
        "MULTI",
        "INCR n",
        "EVAL \"return redis.call('incr','n')\" 0",
        "EVAL 'bad bad' 0",
        "EVALSHA x 0",
    ]);
    let reply = r.run("EXEC");
    assert!(reply.starts_with("*4\r\n:1\r\n:2\r\n-ERR Error compiling script"), "{reply}");
    assert!(reply.ends_with("-NOSCRIPT No matching script. Please use EVAL.\r\n"), "{reply}");
    assert_eq!(r.replayed(), ["INCR n; incr n"]);
}

#[test]
fn waiting_clients_are_served_after_the_script() {
    let mut r = Runner::default();
    let mut waiter = crate::Session::new(2);
    assert_eq!(r.run_as(&mut waiter, "BLPOP l 0"), "blocked");
    assert_eq!(r.eval("redis.call('rpush','l','a') return redis.call('llen','l')"), ":1\r\n");
    assert_eq!(r.letters.0.lock().unwrap()[0], (2, "*2\r\n$1\r\nl\r\n$1\r\na\r\n".to_string()));
    assert_eq!(r.replayed(), ["rpush l a", "LPOP l"]);
}

#[test]
fn random_numbers_follow_redis() {
    let numbers = eval("math.randomseed(7) return {math.random(1000), math.random(1000), math.random(5, 9)}");
    assert_eq!(numbers, "*3\r\n:267\r\n:683\r\n:6\r\n");
    assert_eq!(error("math.random(0)"), "ERR user_script:1: bad argument #1 to 'random' (interval is empty)");
}

#[test]
fn errors_are_counted_once() {
    let mut r = Runner::default();
    r.eval("return redis.call('nope')");
    r.eval("return redis.pcall('nope')");
    r.eval("return redis.error_reply('MINE x')");
    r.eval("error('x')");
    let codes = r.error_codes();
    assert_eq!(codes, [("ERR".to_string(), 3), ("MINE".to_string(), 1)]);
}

mod functions {
    use super::*;

    const LIBRARY: &str = "#!lua name=lib\n\
        local calls = 0\n\
        redis.register_function('add', function(keys, args) calls = calls + 1 return {#keys, args[1], calls} end)\n\
        redis.register_function{function_name='ro', callback=function(keys) return redis.call('get', keys[1]) end, \
            flags={'no-writes'}, description='reads'}";

    fn load(r: &mut Runner, text: &str) -> String {
        r.run_args(&[b"FUNCTION", b"LOAD", text.as_bytes()])
    }
    fn loaded() -> Runner {
        let mut r = Runner::default();
        assert_eq!(load(&mut r, LIBRARY), "$3\r\nlib\r\n");
        r
    }

    #[test]
    fn functions_get_keys_and_arguments() {
        let mut r = loaded();
        assert_eq!(r.run("FCALL add 1 k x"), "*3\r\n:1\r\n$1\r\nx\r\n:1\r\n");
        assert_eq!(r.run("FCALL ADD 0 y"), "*3\r\n:0\r\n$1\r\ny\r\n:2\r\n");
        assert_eq!(r.run("FCALL none 0"), "-ERR Function not found\r\n");
        assert_eq!(r.run("FCALL add x"), "-ERR Bad number of keys provided\r\n");
        assert_eq!(r.run("FCALL_RO ro 1 k"), "$-1\r\n");
        assert_eq!(
            r.run("FCALL_RO add 0"),
            "-ERR Can not execute a script with write flag using *_ro command.\r\n"
        );
    }

    #[test]
    fn libraries_are_replicated_and_listed() {
        let mut r = loaded();
        assert_eq!(r.replayed().len(), 1);
        assert_eq!(load(&mut r, LIBRARY), "-ERR Library 'lib' already exists\r\n");
        assert!(r.replayed().is_empty());
        let list = r.run("FUNCTION LIST LIBRARYNAME LI*");
        assert!(list.contains(
            "$2\r\nro\r\n$11\r\ndescription\r\n$5\r\nreads\r\n$5\r\nflags\r\n*1\r\n+no-writes\r\n"
        ));
        assert!(!list.contains("library_code"));
        assert_eq!(r.run("FUNCTION LIST LIBRARYNAME x"), "*0\r\n");
        assert_eq!(r.run("FUNCTION DELETE x"), "-ERR Library not found\r\n");
        assert_eq!(r.run("FUNCTION DELETE lib"), "+OK\r\n");
        assert_eq!(r.run("FCALL add 0"), "-ERR Function not found\r\n");
    }

    #[test]
    fn a_replaced_library_is_the_one_that_runs() {
        let mut r = loaded();
        r.run("FCALL add 0 x");
        let text = "#!lua name=lib\nredis.register_function('add', function() return 'new' end)";
        assert_eq!(r.run_args(&[b"FUNCTION", b"LOAD", b"REPLACE", text.as_bytes()]), "$3\r\nlib\r\n");
        assert_eq!(r.run("FCALL add 0"), "$3\r\nnew\r\n");
        assert_eq!(r.run("FCALL ro 0"), "-ERR Function not found\r\n");
        let other = "#!lua name=other\nredis.register_function('ADD', function() return 1 end)";
        assert_eq!(load(&mut r, other), "-ERR Function ADD already exists\r\n");
        assert_eq!(r.run("FCALL add 0"), "$3\r\nnew\r\n");
    }

    #[test]
    fn libraries_see_little_while_they_load() {
        let mut r = Runner::default();
        let mut text = |code: &str| load(&mut r, &format!("#!lua name=x\n{code}"));
        let no = |name: &str| {
            format!(
                "-ERR Error registering functions: ERR user_function:2: Script attempted to access nonexistent global variable '{name}'\r\n"
            )
        };
        // As Redis tells it, with its own code twice.
        assert_eq!(text("return math.random()"), no("math"));
        assert_eq!(text("return redis.call('ping')"), no("call"));
        assert_eq!(
            text("x = 1"),
            "-ERR Error registering functions: ERR user_function:2: Attempt to modify a readonly table\r\n"
        );
        assert_eq!(text("return 1"), "-ERR No functions registered\r\n");
        assert!(text("x x").starts_with("-ERR Error compiling function: user_function:2:"));
        assert!(text("while true do end").contains("FUNCTION LOAD timeout"));
        assert!(
            text("redis.register_function('a b', function() end)").contains("Library names can only contain")
        );
    }

    #[test]
    fn the_first_line_is_checked() {
        let mut r = Runner::default();
        for (text, error) in [
            ("x", "Missing library metadata"),
            ("#!lua name=x", "Invalid library metadata"),
            ("#!lua\n", "Library name was not given"),
            ("#!lua name=x name=y\n", "Invalid metadata value, name argument was given multiple times"),
            ("#!lua foo=x\n", "Invalid metadata value given: foo=x"),
            ("#!bad name=x\n", "Engine 'bad' not found"),
        ] {
            assert_eq!(load(&mut r, text), format!("-ERR {error}\r\n"));
        }
    }

    #[test]
    fn a_payload_restores_the_libraries() {
        let mut r = loaded();
        let payload = r.bytes_of(&[b"FUNCTION", b"DUMP"]);
        let restore =
            |r: &mut Runner, policy: &[u8]| r.run_args(&[b"FUNCTION", b"RESTORE", &payload, policy]);
        assert_eq!(restore(&mut r, b"APPEND"), "-ERR Library lib already exists\r\n");
        assert_eq!(restore(&mut r, b"REPLACE"), "+OK\r\n");
        assert_eq!(r.run("FUNCTION FLUSH"), "+OK\r\n");
        assert_eq!(restore(&mut r, b"FLUSH"), "+OK\r\n");
        assert_eq!(r.run("FCALL ro 1 k"), "$-1\r\n");
        assert!(restore(&mut r, b"x").starts_with("-ERR Wrong restore policy given"));
        let mut broken = payload.clone();
        broken[3] ^= 1;
        let text = "-ERR DUMP payload version or checksum are wrong\r\n";
        assert_eq!(r.run_args(&[b"FUNCTION", b"RESTORE", &broken]), text);
    }

    #[test]
    fn stats_count_libraries() {
        let mut r = loaded();
        assert_eq!(
            r.run("FUNCTION STATS"),
            "*4\r\n$14\r\nrunning_script\r\n$-1\r\n$7\r\nengines\r\n*2\r\n$3\r\nLUA\r\n*4\r\n$15\r\nlibraries_count\r\n:1\r\n$15\r\nfunctions_count\r\n:2\r\n"
        );
    }
}

mod libraries {
    use super::*;

    #[test]
    fn json_both_ways() {
        let same = |json: &str| eval(&format!("return cjson.encode(cjson.decode('{json}'))"));
        assert_eq!(
            same("[1,{\"a\":[true,false,null]},\"x\"]"),
            "$31\r\n[1,{\"a\":[true,false,null]},\"x\"]\r\n"
        );
        assert_eq!(eval("return cjson.encode({})"), "$2\r\n{}\r\n");
        assert_eq!(eval("return cjson.encode('/\\0')"), "$10\r\n\"\\/\\u0000\"\r\n");
        assert_eq!(eval("return cjson.encode({[1]=1,[3]=3})"), "$10\r\n[1,null,3]\r\n");
        assert_eq!(
            error("cjson.encode({[1]=1,[50]=2})"),
            "ERR user_script:1: Cannot serialise table: excessively sparse array"
        );
        assert_eq!(
            error("cjson.decode('[1,')"),
            "ERR user_script:1: Expected value but found T_END at character 4"
        );
        assert_eq!(
            error("cjson.encode(1/0)"),
            "ERR user_script:1: Cannot serialise number: must not be NaN or Inf"
        );
    }

    #[test]
    fn message_pack_both_ways() {
        let script = "local t = {cmsgpack.unpack(cmsgpack.pack(1, 'a', {1, {2}}, -5, 0.5, true))} \
            return {#t, t[2], t[3][2][1], t[4], t[5] * 2, t[6]}";
        assert_eq!(eval(script), "*6\r\n:6\r\n$1\r\na\r\n:2\r\n:-5\r\n:1\r\n:1\r\n");
        assert_eq!(error("cmsgpack.unpack('\\205')"), "ERR user_script:1: Missing bytes in input.");
        assert_eq!(
            error("cmsgpack.unpack('\\221\\255\\255\\255\\255')"),
            "ERR user_script:1: Missing bytes in input."
        );
        assert!(error("cmsgpack.unpack(string.rep('\\145', 5000))").contains("Bad data format"));
    }

    #[test]
    fn structures_both_ways() {
        assert_eq!(eval("return struct.pack('>I2s', 258, 'a')"), "$4\r\n\u{1}\u{2}a\0\r\n");
        assert_eq!(
            eval("return {struct.unpack('<hBc0', '\\255\\255\\1abc')}"),
            "*3\r\n:-1\r\n$1\r\na\r\n:5\r\n"
        );
        assert_eq!(eval("return struct.size('!8 Bd')"), ":16\r\n");
        assert_eq!(
            error("struct.unpack('c2147483647','x')"),
            "ERR user_script:1: bad argument #2 to 'unpack' (data string too short)"
        );
    }

    #[test]
    fn bits_are_32() {
        assert_eq!(
            eval("return {bit.tobit(2^31), bit.lshift(1, 33), bit.bxor(5, 1), bit.arshift(-8, 2)}"),
            "*4\r\n:-2147483648\r\n:2\r\n:4\r\n:-2\r\n"
        );
        assert_eq!(eval("return bit.tohex(255, -4)"), "$4\r\n00FF\r\n");
    }
}

#[test]
fn ranges_too_long_to_be_counted_are_refused() {
    for range in ["-2, 2147483647", "0, 2147483647", "-2147483648, -2", "-2147483648"] {
        assert!(
            error(&format!("return {{unpack({{1,2,3}}, {range})}}")).contains("too many results to unpack"),
            "{range}"
        );
    }
    assert_eq!(eval("return {unpack({1,2,3}, 2, 3)}"), "*2\r\n:2\r\n:3\r\n");
    assert_eq!(eval("return {unpack({1,2,3}, -1, -2)}"), "*0\r\n");
}

#[test]
fn commands_take_as_many_arguments_as_a_function_can_have() {
    for count in [1999, 2000, 2001, 7999] {
        let mut r = Runner::default();
        let call = format!(
            "local a = {{}} for i = 1, {count} do a[i] = i end return redis.call('rpush', 'l', unpack(a))"
        );
        assert_eq!(r.eval(&call), format!(":{count}\r\n"));
        assert_eq!(r.run("LINDEX l -1"), format!("$4\r\n{count}\r\n"));
    }
}

#[test]
fn repeating_a_string_takes_no_longer_than_its_result() {
    assert_eq!(eval("return #string.rep('', 2^31 - 1)"), ":0\r\n");
    assert_eq!(eval("return #string.rep('ab', 1e7)"), ":20000000\r\n");
    assert_eq!(
        eval(
            "return string.rep('ab', 40000) == table.concat({string.rep('ab', 20000), string.rep('ab', 20000)})"
        ),
        ":1\r\n"
    );
    assert_eq!(eval("return #string.rep('x', 2^32 + 5)"), ":5\r\n");
    assert_eq!(eval("return #string.rep('x', -2^31)"), ":0\r\n");
    assert_eq!(
        eval("local ok, e = pcall(string.rep, 'x', 2^31 - 1) return e"),
        "$17\r\nnot enough memory\r\n"
    );
    assert_eq!(error("string.rep('x', 2^31 - 1)"), "ERR not enough memory");
    assert_eq!(
        error("string.rep()"),
        "ERR user_script:1: bad argument #1 to 'rep' (string expected, got no value)"
    );
}

#[test]
fn nothing_is_moved_that_no_table_has() {
    let text = "ERR user_script:1: bad argument #2 to 'insert' (position out of bounds)";
    assert_eq!(error("table.insert({}, -2^31, 1)"), text);
    assert_eq!(error("table.insert({1, 2}, -2^25, 1)"), text);
    assert_eq!(
        eval("local t = {1, 2} table.insert(t, -1, 0) return {t[-1], t[0], t[2], t[3]}"),
        "*1\r\n:0\r\n"
    );
    assert_eq!(eval("local t = {1, 2} table.insert(t, 1, 0) return t"), "*3\r\n:0\r\n:1\r\n:2\r\n");
}

#[test]
fn tables_that_hold_one_another_make_no_reply_without_end() {
    let reply = eval("local t = {} for i = 1, 40 do t = {t, t} end return t");
    assert!(reply.starts_with("-ERR Error running script "), "{}", &reply[..reply.len().min(100)]);
    assert!(reply.ends_with(", the reply is too long\r\n"));
}
