//! Connections of MIGRATE, kept for a while after their last use, as Redis does: tools that reshard call it once for a few
//! keys, and a connection with TLS costs more than those.
//!
//! A connection belongs to the worker whose command opened it. Its task carries out what all workers send by it, one
//! request after the other, and ends when nobody did so for [`KEPT`], when something went wrong, or with the worker.

use crate::env::Env;
use crate::shared::Shared;
use proto::resp::{Value, decode, encode_command};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

/// Redis's MIGRATE_SOCKET_CACHE_TTL.
const KEPT: Duration = Duration::from_secs(10);
/// Redis's MIGRATE_SOCKET_CACHE_ITEMS. Where there are more, one that was there goes.
const LINKS_MAX: usize = 64;

/// Whom a connection leads to, and as whom it has logged in: nobody gets another's rights.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    pub host: String,
    pub port: u16,
    /// What follows AUTH; empty: none.
    pub login: Vec<Vec<u8>>,
}

/// Commands for a target.
#[derive(Clone)]
pub struct Request {
    pub db: i64,
    pub commands: Arc<Vec<u8>>,
    /// Number of the commands.
    pub count: usize,
    /// Longest silence of the target.
    pub timeout: Duration,
}

/// What a target answered: less than all replies if there is an error.
#[derive(Default, Debug)]
pub struct Answer {
    pub replies: Vec<Value>,
    /// The text for the client.
    pub error: Option<String>,
    /// The connection had ended before the first reply, as one may that was not used for a while.
    is_stale: bool,
}

struct Job {
    request: Request,
    answer: oneshot::Sender<Answer>,
}

type Sender = mpsc::UnboundedSender<Job>;

/// The connections that are kept.
#[derive(Default)]
pub struct Links {
    all: Mutex<BTreeMap<Target, Sender>>,
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Target, Sender>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn len(&self) -> usize {
        self.lock().len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn get(&self, target: &Target) -> Option<Sender> {
        self.lock().get(target).cloned()
    }
    /// Keeps a new connection, unless somebody else has opened one meanwhile.
    fn keep(&self, target: &Target, link: &Sender) {
        let mut all = self.lock();
        if all.len() >= LINKS_MAX && !all.contains_key(target) {
            all.pop_first();
        }
        all.entry(target.clone()).or_insert_with(|| link.clone());
    }
    fn forget(&self, target: &Target, link: &mpsc::WeakUnboundedSender<Job>) {
        let mut all = self.lock();
        let is_it = |kept: &Sender| link.upgrade().is_some_and(|link| link.same_channel(kept));
        if all.get(target).is_some_and(is_it) {
            all.remove(target);
        }
    }
}

/// Sends commands to a target, by a connection that is there or by a new one. One that turns out to have ended is opened
/// anew, once.
pub async fn ask<E: Env>(shared: &Arc<Shared<E>>, target: &Target, request: Request) -> Answer {
    let links = &shared.migrate_links;
    if let Some(link) = links.get(target) {
        match send(&link, &request).await {
            Some(answer) if !answer.is_stale => return answer,
            _ => {}
        }
    }
    let is_tls = shared.settings().is_cluster_tls;
    let connect = crate::tls::connect(shared, "", &target.host, target.port, is_tls);
    let failed = |text: &str| Answer { error: Some(text.into()), ..Answer::default() };
    let Ok(stream) = within(request.timeout, connect).await else {
        return failed("IOERR error or timeout connecting to the client");
    };
    let (link, inbox) = mpsc::unbounded_channel();
    links.keep(target, &link);
    let (shared, of, weak) = (shared.clone(), target.clone(), link.downgrade());
    tokio::task::spawn_local(async move {
        Link { stream, input: Vec::new(), db: 0, is_new: true }.serve(inbox, &of).await;
        shared.migrate_links.forget(&of, &weak);
    });
    send(&link, &request).await.unwrap_or_else(|| failed("IOERR error or timeout writing to target instance"))
}

/// `None`: the connection has ended meanwhile, and nothing was sent.
async fn send(link: &Sender, request: &Request) -> Option<Answer> {
    let (answer, answered) = oneshot::channel();
    link.send(Job { request: request.clone(), answer }).ok()?;
    answered.await.ok()
}

async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One connection.
struct Link<S> {
    stream: S,
    /// What has come of the next reply.
    input: Vec<u8>,
    /// The database that is selected there.
    db: i64,
    /// Nothing was sent by it yet.
    is_new: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// Carries out what comes until the link is not worth keeping.
    async fn serve(mut self, mut inbox: mpsc::UnboundedReceiver<Job>, target: &Target) {
        while let Ok(Some(job)) = tokio::time::timeout(KEPT, inbox.recv()).await {
            let answer = self.carry_out(&job.request, &target.login).await;
            let has_failed = answer.error.is_some();
            // Whoever asked may be gone.
            let _ = job.answer.send(answer);
            if has_failed {
                return;
            }
        }
    }

    async fn carry_out(&mut self, request: &Request, login: &[Vec<u8>]) -> Answer {
        let was_new = std::mem::replace(&mut self.is_new, false);
        let mut head = Vec::new();
        // Each time, as Redis does: the password may have changed.
        if !login.is_empty() {
            let words: Vec<&[u8]> =
                std::iter::once(&b"AUTH"[..]).chain(login.iter().map(|w| &w[..])).collect();
            encode_command(&words, &mut head);
        }
        let selects = self.db != request.db;
        if selects {
            encode_command(&[b"SELECT".as_slice(), request.db.to_string().as_bytes()], &mut head);
        }
        let heads = !login.is_empty() as usize + selects as usize;
        let mut answer = Answer::default();
        let result = self.exchange(&head, request, heads + request.count, &mut answer.replies).await;
        answer.is_stale = !was_new
            && answer.replies.is_empty()
            && result.as_ref().is_err_and(|(error, _)| error.kind() != io::ErrorKind::TimedOut);
        answer.error =
            result.err().map(|(_, what)| format!("IOERR error or timeout {what} to target instance"));
        let heads: Vec<Value> = answer.replies.drain(..heads.min(answer.replies.len())).collect();
        if let Some(text) = heads.iter().find_map(failure) {
            return Answer { error: Some(text), ..Answer::default() };
        }
        self.db = request.db;
        answer
    }

    /// Sends all and reads `count` replies. `Err`: what went wrong, and with what.
    async fn exchange(
        &mut self,
        head: &[u8],
        request: &Request,
        count: usize,
        replies: &mut Vec<Value>,
    ) -> Result<(), (io::Error, &'static str)> {
        const CHUNK_BYTES: usize = 64 * 1024;
        for chunk in head.chunks(CHUNK_BYTES).chain(request.commands.chunks(CHUNK_BYTES)) {
            within(request.timeout, self.stream.write_all(chunk)).await.map_err(|e| (e, "writing"))?;
        }
        while replies.len() < count {
            let reply = self.reply(request.timeout).await.map_err(|e| (e, "reading"))?;
            replies.push(reply);
        }
        Ok(())
    }

    async fn reply(&mut self, timeout: Duration) -> io::Result<Value> {
        loop {
            if let Some((value, used)) = decode(&self.input).map_err(|e| io::Error::other(e.0))? {
                self.input.drain(..used);
                return Ok(value);
            }
            if within(timeout, self.stream.read_buf(&mut self.input)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// What a client is told of an error reply.
pub fn failure(reply: &Value) -> Option<String> {
    match reply {
        Value::Error(text) => Some(format!("ERR Target instance replied with error: {text}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    fn request(db: i64, commands: &[u8]) -> Request {
        let commands = Arc::new(commands.to_vec());
        Request { db, commands, count: 1, timeout: Duration::from_secs(60) }
    }

    fn link(stream: DuplexStream) -> Link<DuplexStream> {
        Link { stream, input: Vec::new(), db: 0, is_new: true }
    }

    /// Lets the target answer what it is expected to get.
    async fn expect(target: &mut DuplexStream, wanted: &str, answer: &str) {
        let mut got = vec![0; wanted.len()];
        target.read_exact(&mut got).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&got), wanted);
        target.write_all(answer.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn a_link_logs_in_each_time_and_selects_where_it_has_to() {
        let (near, mut far) = duplex(4096);
        let mut link = link(near);
        let login = [b"secret".to_vec()];
        let (auth, select) = ("*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n", "*2\r\n$6\r\nSELECT\r\n$1\r\n9\r\n");
        for (db, wanted, answers) in [
            (9, format!("{auth}{select}X"), "+OK\r\n+OK\r\n+a\r\n"),
            (9, format!("{auth}X"), "+OK\r\n+a\r\n"),
        ] {
            let (request, target) = (request(db, b"X"), expect(&mut far, &wanted, answers));
            let (answer, ()) = tokio::join!(link.carry_out(&request, &login), target);
            assert_eq!(answer.replies, [Value::Simple("a".into())]);
            assert_eq!(answer.error, None);
        }
    }

    #[tokio::test]
    async fn a_refused_login_is_told_and_ends_the_link() {
        let (near, mut far) = duplex(4096);
        let (link, inbox) = (link(near), mpsc::unbounded_channel());
        let target = Target { host: "h".into(), port: 1, login: vec![b"x".to_vec()] };
        let wanted = "*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\nX";
        let request = request(0, b"X");
        let (answer, (), ()) = tokio::join!(
            send(&inbox.0, &request),
            link.serve(inbox.1, &target),
            expect(&mut far, wanted, "-WRONGPASS no\r\n-NOAUTH no\r\n"),
        );
        let error = answer.unwrap().error.unwrap();
        assert_eq!(error, "ERR Target instance replied with error: WRONGPASS no");
        assert!(send(&inbox.0, &request).await.is_none());
    }

    #[tokio::test]
    async fn only_one_that_was_used_before_is_stale() {
        for was_used in [false, true] {
            let (near, mut far) = duplex(4096);
            let mut link = link(near);
            if was_used {
                let (request, target) = (request(0, b"X"), expect(&mut far, "X", "+a\r\n"));
                tokio::join!(link.carry_out(&request, &[]), target);
            }
            drop(far);
            let answer = link.carry_out(&request(0, b"X"), &[]).await;
            assert_eq!(answer.is_stale, was_used);
            assert!(answer.error.is_some());
        }
    }

    #[test]
    fn there_are_only_so_many() {
        let links = Links::default();
        for port in 0..100 {
            let (link, _inbox) = mpsc::unbounded_channel();
            links.keep(&Target { host: "h".into(), port, login: Vec::new() }, &link);
        }
        assert_eq!(links.len(), LINKS_MAX);
    }
}
