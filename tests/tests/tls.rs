//! TLS between processes: clients, replicas and a cluster, certificates that are wanted, wrong, and replaced.

#[path = "../src/certificates.rs"]
mod certificates;

use certificates::Authority;
use proto::resp::{Value, decode, encode_command};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use tests::server::{free_port, shoal_cli_binary};
use tests::{DEADLINE, Server, wait_for};

/// A client over TLS.
struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    input: Vec<u8>,
}

impl TlsClient {
    /// Trusts `authority`; shows what `by` issued under that name.
    fn connect(port: u16, authority: &Authority, own: Option<(&Authority, &str)>) -> io::Result<TlsClient> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(authority.path("ca.crt")).expect("it was written");
        roots.add(ca).expect("it is an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("the defaults fit").with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((by, name)) => {
                let chain =
                    CertificateDer::from_pem_file(by.path(&format!("{name}.crt"))).expect("it was issued");
                let key =
                    PrivateKeyDer::from_pem_file(by.path(&format!("{name}.key"))).expect("it was issued");
                builder.with_client_auth_cert(vec![chain], key).expect("they belong together")
            }
        };
        let tcp = TcpStream::connect(("127.0.0.1", port))?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from("127.0.0.1").expect("it is an address");
        let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        Ok(TlsClient { stream: StreamOwned::new(tls, tcp), input: Vec::new() })
    }

    fn send(&mut self, words: &[&[u8]]) -> io::Result<()> {
        let mut out = Vec::new();
        encode_command(words, &mut out);
        self.stream.write_all(&out)
    }

    fn receive(&mut self) -> io::Result<Value> {
        loop {
            if let Some((value, used)) = decode(&self.input).map_err(|e| io::Error::other(e.0))? {
                self.input.drain(..used);
                return Ok(value);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.input.extend_from_slice(&chunk[..n]),
            }
        }
    }

    fn call(&mut self, line: &str) -> io::Result<String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.send(&words)?;
        let value = self.receive()?;
        Ok(value.as_text().map_or_else(|| format!("{value:?}"), String::from))
    }

    /// What the server showed of itself.
    fn server_certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().expect("the handshake is over")[0].to_vec()
    }
}

/// A server with a port for TLS beside its plain one.
fn start(authority: &Authority, more: &[&str]) -> (Server, u16) {
    authority.issue("server");
    let port = free_port();
    let text = port.to_string();
    let own = authority.server_args("server");
    let args: Vec<&str> =
        own.iter().map(String::as_str).chain(["--tls-port", &text]).chain(more.iter().copied()).collect();
    (Server::start(&args), port)
}

fn ping(port: u16, authority: &Authority, own: Option<(&Authority, &str)>) -> io::Result<String> {
    TlsClient::connect(port, authority, own)?.call("PING")
}

#[test]
fn clients_show_certificates_as_the_server_asks() {
    let (house, stranger) = (Authority::new("auth"), Authority::new("auth-stranger"));
    let (server, port) = start(&house, &[]);
    house.issue("client");
    stranger.issue("client");
    let [none, own, wrong] = [None, Some((&house, "client")), Some((&stranger, "client"))];
    let served = || [none, own, wrong].map(|who| ping(port, &house, who).is_ok_and(|reply| reply == "PONG"));
    assert_eq!(served(), [false, true, false]);
    let mut plain = server.client();
    plain.ok("CONFIG SET tls-auth-clients optional");
    assert_eq!(served(), [true, true, false]);
    plain.ok("CONFIG SET tls-auth-clients no");
    assert_eq!(served(), [true, true, true]);
    assert!(ping(port, &stranger, none).is_err(), "the client does not know the server's authority");
}

#[test]
fn who_does_not_speak_tls_is_closed_without_a_word() {
    let house = Authority::new("plain");
    let (server, port) = start(&house, &["--tls-auth-clients", "no"]);
    let rubbish: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for bytes in [b"PING\r\n".as_slice(), b"*1\r\n$4\r\nPING\r\n", &rubbish, b"\x16\x03\x01\x40\x00\x01"] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        // Reset, or closed.
        let _ = stream.read_to_end(&mut got);
        assert!(!got.windows(4).any(|w| w == b"PONG"), "{bytes:?}: {got:?}");
    }
    assert_eq!(ping(port, &house, None).unwrap(), "PONG");
    assert!(server.log().contains("Error accepting a client connection"), "{}", server.log());
    wait_for("the connections to be forgotten", || {
        (server.client().info("connected_clients") == "1").then_some(())
    });
}

#[test]
fn certificates_are_replaced_without_a_restart() {
    let house = Authority::new("reload");
    let (server, port) = start(&house, &["--tls-auth-clients", "no"]);
    let mut old = TlsClient::connect(port, &house, None).unwrap();
    assert_eq!(old.call("PING").unwrap(), "PONG");
    house.issue("server");
    let mut between = TlsClient::connect(port, &house, None).unwrap();
    assert_eq!(between.call("PING").unwrap(), "PONG");
    assert_eq!(between.server_certificate(), old.server_certificate(), "files are read when they are set");
    let mut plain = server.client();
    let mut set = |name: &str, path: String| {
        let reply = plain.call(&format!("CONFIG SET {name} {path}"));
        format!("{:?}", reply)
    };
    assert!(set("tls-cert-file", house.path("server.crt")).contains("OK"));
    let mut new = TlsClient::connect(port, &house, None).unwrap();
    assert_eq!(new.call("PING").unwrap(), "PONG");
    assert_ne!(new.server_certificate(), old.server_certificate());
    assert_eq!(old.call("PING").unwrap(), "PONG", "old connections live on");
    // Whatever is no good changes nothing.
    house.issue("other");
    std::fs::write(house.path("rubbish"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    for (name, path) in [
        ("tls-cert-file", house.path("nowhere")),
        ("tls-cert-file", house.path("rubbish")),
        ("tls-cert-file", house.path("server.key")),
        ("tls-key-file", house.path("other.key")),
        ("tls-key-file", house.path("rubbish")),
        ("tls-ca-cert-file", house.path("server.key")),
        ("tls-protocols", "SSLv3".into()),
        ("tls-ciphers", "AES128-SHA256".into()),
    ] {
        let reply = set(name, path.clone());
        let expected = format!(
            "CONFIG SET failed (possibly related to argument '{name}') - Unable to update TLS configuration. Check server logs."
        );
        assert!(reply.contains(&expected), "{name} {path}: {reply}");
    }
    let mut last = TlsClient::connect(port, &house, None).unwrap();
    assert_eq!(last.call("PING").unwrap(), "PONG");
    assert_eq!(last.server_certificate(), new.server_certificate());
    match server.client().call("CONFIG GET tls-cert-file") {
        Value::Array(pair) => assert_eq!(pair[1].as_text(), Some(house.path("server.crt").as_str())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_port_is_opened_and_closed_by_config_set() {
    let house = Authority::new("port");
    house.issue("server");
    let args = house.server_args("server");
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--tls-auth-clients", "no"]).collect();
    let server = Server::start(&args);
    let (mut plain, port) = (server.client(), free_port());
    plain.ok(&format!("CONFIG SET tls-port {port}"));
    let mut kept = TlsClient::connect(port, &house, None).unwrap();
    assert_eq!(kept.call("PING").unwrap(), "PONG");
    let text = kept.call("INFO server").unwrap();
    assert!(text.contains(&format!("name=tls,bind=*,bind=-::*,port={port}")), "{text}");
    plain.ok("CONFIG SET tls-port 0");
    assert_eq!(kept.call("PING").unwrap(), "PONG");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "nobody listens there");
}

#[test]
fn long_values_and_long_pipelines_arrive_whole() {
    let house = Authority::new("long");
    let (_server, port) = start(&house, &["--tls-auth-clients", "no"]);
    let mut client = TlsClient::connect(port, &house, None).unwrap();
    let value: Vec<u8> = (0..6_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    client.send(&[b"SET", b"long", &value]).unwrap();
    assert_eq!(client.receive().unwrap().as_text(), Some("OK"));
    // Far more than sockets hold, and not read while it is asked for.
    const TIMES: usize = 8;
    for i in 0..TIMES {
        client.send(&[b"GET", b"long"]).unwrap();
        client.send(&[b"SET", b"short", i.to_string().as_bytes()]).unwrap();
        client.send(&[b"GET", b"short"]).unwrap();
    }
    for i in 0..TIMES {
        match client.receive().unwrap() {
            Value::Bulk(got) => assert!(*got == *value, "round {i}"),
            other => panic!("round {i}: {other:?}"),
        }
        assert_eq!(client.receive().unwrap().as_text(), Some("OK"));
        assert_eq!(client.receive().unwrap().as_text(), Some(i.to_string().as_str()));
    }
}

#[test]
fn a_replica_follows_over_tls() {
    let (house, stranger) = (Authority::new("replica"), Authority::new("replica-stranger"));
    let (primary, port) = start(&house, &["--tls-replication", "yes"]);
    primary.client().ok("SET before 1");
    let own_port = free_port().to_string();
    let follow = format!("127.0.0.1 {port}");
    let run = |by: &Authority| {
        by.issue("replica");
        let own = by.server_args("replica");
        let more = ["--tls-port", &own_port, "--tls-replication", "yes", "--replicaof", &follow];
        let args: Vec<&str> = own.iter().map(String::as_str).chain(more).collect();
        Server::start(&args)
    };
    let replica = run(&house);
    wait_for("the link", || (replica.client().info("master_link_status") == "up").then_some(()));
    primary.client().ok("SET after 2");
    wait_for("the write", || {
        let mut client = replica.client();
        (client.call("GET after").as_text() == Some("2")).then_some(())
    });
    assert_eq!(replica.client().text("GET before"), "1");
    let shown = primary.client().info("slave0");
    assert!(shown.contains(&format!("port={own_port},")), "the port that it says is that of TLS: {shown}");
    drop(replica);
    // Another house's replica is not let in, and lets itself not be led.
    let replica = run(&stranger);
    wait_for("the refusal", || replica.log().contains("REPLICA sync: ").then_some(()));
    assert_eq!(replica.client().info("master_link_status"), "down");
    assert!(replica.client().call("GET before").as_text().is_none());
}

#[test]
fn a_cluster_over_tls_alone_is_formed_and_fails_over() {
    let house = Authority::new("cluster");
    house.issue("client");
    let (cli, client) = (shoal_cli_binary(), ["client.crt", "client.key", "ca.crt"].map(|f| house.path(f)));
    let [certificate, key, ca] = &client;
    let run = |words: &[&str]| {
        let options = ["--tls", "--cacert", ca, "--cert", certificate, "--key", key];
        let output = Command::new(&cli).args(options).args(words).output().expect("it was built");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let more = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--tls-replication", "yes"];
    let mut nodes: Vec<(Server, u16)> = (0..3)
        .map(|_| {
            let bus = free_port().to_string();
            start(&house, &[&more[..], &["--cluster-node-timeout", "1000", "--cluster-port", &bus]].concat())
        })
        .collect();
    let addresses: Vec<String> = nodes.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let create =
        ["cluster", "create", &addresses[0], &addresses[1], &addresses[2], "--replicas", "2", "--yes"];
    run(&create);
    let ports: Vec<String> = nodes.iter().map(|(_, port)| port.to_string()).collect();
    assert_eq!(run(&["-c", "-p", &ports[2], "SET", "k", "v"]).trim(), "OK");
    // Each is told the port of its kind.
    let mut plain = nodes[1].0.client();
    let [plain_port, tls_port] = [nodes[0].0.port, nodes[0].1];
    let moved = |value: &Value| format!("{value:?}");
    let reply = moved(&plain.call("SET k v"));
    assert!(reply.contains(&format!("MOVED 7629 127.0.0.1:{plain_port}")), "{reply}");
    let mut secure = TlsClient::connect(nodes[1].1, &house, Some((&house, "client"))).unwrap();
    let reply = secure.call("SET k v").unwrap();
    assert!(reply.contains(&format!("MOVED 7629 127.0.0.1:{tls_port}")), "{reply}");
    let shown = secure.call("CLUSTER NODES").unwrap();
    assert!(addresses.iter().all(|a| shown.contains(a)), "{shown}");
    let mut first = nodes[0].0.client();
    first.ok("SET k v");
    wait_for("the copies", || (first.call("WAIT 2 100") == Value::Int(2)).then_some(()));
    nodes[0].0.kill();
    let survivor = &ports[1];
    wait_for("a new primary", || {
        let output = run(&["-p", survivor, "CLUSTER", "NODES"]);
        let is_replaced = output
            .lines()
            .any(|l| !l.contains(&format!(":{tls_port}@")) && l.contains("master") && l.contains("0-16383"));
        is_replaced.then_some(())
    });
    wait_for("the value", || {
        let output = Command::new(&cli)
            .args([
                "--tls",
                "--cacert",
                ca,
                "--cert",
                certificate,
                "--key",
                key,
                "-c",
                "-p",
                survivor,
                "GET",
                "k",
            ])
            .output()
            .expect("it was built");
        (String::from_utf8_lossy(&output.stdout).trim() == "v").then_some(())
    });
    // Who shows no certificate of the house has no link of the bus.
    let bus: u16 = shown_bus_port(&shown, &addresses[1]);
    assert!(ping(bus, &house, None).is_err());
    nodes[1].0.client().ok("PING");
}

fn shown_bus_port(nodes: &str, address: &str) -> u16 {
    let (_, rest) = nodes.split_once(&format!("{address}@")).expect("it is shown");
    rest.split([' ', ',']).next().and_then(|port| port.parse().ok()).expect("a port")
}
