//! The users of a node: who there is, and what they are told to be by configuration, file and ACL SETUSER.
//!
//! A change puts a new [`User`] in the place of the old one and counts the epoch up; workers look at the epoch once per
//! batch, and connections that took their user from an earlier one take it anew. Who loses its user, or a channel that
//! it listens to, is disconnected.
//!
//! Invariant: when ACL SETUSER has answered, no command that is sent thereafter runs with older rights.

use crate::env::Env;
use crate::mail::{Letter, Note};
use crate::pubsub::Space;
use crate::shared::Shared;
use engine::Session;
use engine::acl::{DEFAULT, Rules, User, has_spaces};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module's head.
pub struct Users {
    table: Mutex<Table>,
    epoch: AtomicU64,
    pub log: crate::acl_log::AclLog,
}

struct Table {
    by_name: BTreeMap<Vec<u8>, Arc<User>>,
    last_id: u64,
}

impl Table {
    /// Puts a user in the place of one of the same name, as whom it counts.
    fn put(&mut self, mut user: User) {
        user.id = match self.by_name.get(&user.name) {
            Some(old) => old.id,
            None => {
                self.last_id += 1;
                self.last_id
            }
        };
        self.by_name.insert(user.name.clone(), Arc::new(user));
    }
    fn default_user(&self) -> &Arc<User> {
        self.by_name.get(DEFAULT).expect("the default user is never removed")
    }
}

/// What became of a connection's user.
pub enum Renewed {
    /// It is there, perhaps with other rights.
    Same,
    /// It was removed: the connection must end.
    Gone,
}

impl Users {
    /// With the default user alone, who may do everything.
    pub fn new(table: &engine::Table) -> Users {
        let mut users = Table { by_name: BTreeMap::new(), last_id: 0 };
        users.put(Rules { table, has_all_channels: true }.default_user());
        Users { table: Mutex::new(users), epoch: AtomicU64::new(1), log: Default::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Counts changes of users.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
    fn changed(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub fn get(&self, name: &[u8]) -> Option<Arc<User>> {
        self.lock().by_name.get(name).cloned()
    }
    pub fn default_user(&self) -> Arc<User> {
        self.lock().default_user().clone()
    }
    /// In order of name.
    pub fn all(&self) -> Vec<Arc<User>> {
        self.lock().by_name.values().cloned().collect()
    }

    /// The user, if the password is right and it may log in.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        self.get(name).filter(|user| user.is_enabled && user.is_password(password))
    }

    /// Makes a new session that of the default user.
    pub fn begin(&self, session: &mut Session) {
        session.users_epoch = self.epoch();
        let user = self.default_user();
        let is_open = user.is_open();
        session.set_user(Some(user), is_open);
    }

    /// Gives a session its user as it is now.
    pub fn renew(&self, session: &mut Session) -> Renewed {
        // Before the table: a change after this is seen next time.
        session.users_epoch = self.epoch();
        let Some(user) = session.user() else { return Renewed::Same };
        let table = self.lock();
        match table.by_name.get(&user.name) {
            Some(now) if now.id == user.id => {
                let is_authenticated =
                    session.is_authenticated() || now.name == DEFAULT && table.default_user().is_open();
                session.set_user(Some(now.clone()), is_authenticated);
                Renewed::Same
            }
            _ => {
                session.set_user(Some(table.default_user().clone()), false);
                Renewed::Gone
            }
        }
    }

    /// `requirepass`: the password of the default user; empty: it needs none.
    pub fn set_default_password(&self, rules: &Rules, password: &[u8]) {
        let mut table = self.lock();
        let mut user = User::clone(table.default_user());
        let rule = [b">", password].concat();
        let words: [&[u8]; 2] = [b"resetpass", if password.is_empty() { b"nopass" } else { &rule }];
        words.iter().for_each(|w| rules.apply(&mut user, w).expect("a known rule"));
        table.put(user);
        drop(table);
        self.changed();
    }
}

/// Rules as they are read with the settings in force.
pub fn rules<'a, E: Env>(shared: &'a Shared<E>) -> Rules<'a> {
    Rules { table: &shared.engine.table, has_all_channels: shared.settings().has_all_channels_by_default }
}

/// ACL SETUSER: all rules or none. Whoever listens to what its user may not any more is disconnected.
pub fn set<E: Env>(shared: &Shared<E>, name: &[u8], words: &[&[u8]]) -> Result<(), String> {
    let rules = rules(shared);
    let users = &shared.users;
    let mut table = users.lock();
    let old = table.by_name.get(name).cloned();
    let mut user = old.as_ref().map_or_else(|| rules.new_user(name), |old| User::clone(old));
    rules.apply_all(&mut user, words)?;
    table.put(user);
    let new = table.by_name[name].clone();
    drop(table);
    users.changed();
    if let Some(old) = old {
        disconnect_listeners(shared, &old, &new);
    }
    recheck_waiting(shared);
    Ok(())
}

/// ACL DELUSER for one name. False: there is none.
pub fn delete<E: Env>(shared: &Shared<E>, name: &[u8]) -> bool {
    assert_ne!(name, DEFAULT, "the default user stays");
    let removed = shared.users.lock().by_name.remove(name);
    let Some(user) = removed else { return false };
    shared.users.changed();
    disconnect(shared, &BTreeSet::from([user.id]));
    true
}

/// Ends the connections of users that are no more.
fn disconnect<E: Env>(shared: &Shared<E>, ids: &BTreeSet<u64>) {
    for client in shared.clients.all() {
        if ids.contains(&client.user_id.load(Ordering::Relaxed)) {
            client.kill();
            shared.tell(&client, Note::Kill { is_soft: true });
        }
    }
}

/// Ends the connections of a user that listen to what it may not any more.
fn disconnect_listeners<E: Env>(shared: &Shared<E>, old: &User, new: &User) {
    let Some(channels) = new.channels() else { return };
    let is_superset = old.channels().is_some_and(|old| old.iter().all(|channel| channels.contains(channel)));
    if is_superset {
        return;
    }
    let mut lost = BTreeSet::new();
    for space in [Space::Channel, Space::Pattern, Space::Sharded] {
        shared.pubsub.for_each(space, |name, receivers| {
            if !new.may_subscribe(name, space == Space::Pattern) {
                lost.extend(receivers.keys().copied());
            }
        });
    }
    for client in lost.iter().filter_map(|id| shared.clients.get(*id)) {
        if client.user_id.load(Ordering::Relaxed) == old.id {
            client.kill();
            shared.tell(&client, Note::Kill { is_soft: false });
        }
    }
}

/// Clients that wait may have lost the right to what they wait for: their workers look.
fn recheck_waiting<E: Env>(shared: &Shared<E>) {
    shared.mail.iter().for_each(|m| m.post(Letter::UsersChanged));
}

/// The users that the node begins with. `Err`: it must not begin.
pub fn load_at_start<E: Env>(shared: &Shared<E>) -> Result<(), String> {
    let (lines, password, file) = {
        let config = shared.config();
        (config.users.clone(), config.get("requirepass").to_string(), config.get("aclfile").to_string())
    };
    if !password.is_empty() {
        shared.users.set_default_password(&rules(shared), password.as_bytes());
    }
    if !file.is_empty() && !lines.is_empty() {
        return Err("Configuring Shoal with users in its configuration and at the same time with an ACL file is invalid. Please define either an ACL file or users in the configuration, but not both.".into());
    }
    load_lines(shared, &lines)?;
    match file.is_empty() {
        true => Ok(()),
        false => load_file(shared).map_err(|e| format!("Aborting startup because of ACL errors: {e}")),
    }
}

fn load_lines<E: Env>(shared: &Shared<E>, lines: &[Vec<String>]) -> Result<(), String> {
    let rules = rules(shared);
    for line in lines {
        let (name, words) = line.split_first().expect("a name was demanded");
        if has_spaces(name.as_bytes()) {
            return Err("Spaces not allowed in ACL usernames".into());
        }
        let mut user = rules.new_user(name.as_bytes());
        if name.as_bytes() == DEFAULT {
            user = User::clone(&shared.users.default_user());
            rules.apply(&mut user, b"reset").expect("a known rule");
        }
        let words: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
        rules
            .apply_all(&mut user, &words)
            .map_err(|error| format!("Error loading ACL rules for the user named '{name}': {error}"))?;
        if !user.is_enabled {
            tracing::info!(
                "The user '{name}' is disabled (there is no 'on' modifier in the user description). Make sure this is not a configuration error."
            );
        }
        shared.users.lock().put(user);
    }
    shared.users.changed();
    Ok(())
}

/// ACL LOAD: takes the users of the file, all or none. Everybody but the default user's connections is disconnected.
pub fn load_file<E: Env>(shared: &Shared<E>) -> Result<(), String> {
    let path = shared.config().get("aclfile").to_string();
    let text = std::fs::read(&path)
        .map_err(|e| format!("Error loading ACLs, opening file '{path}': {}", os_text(&e)))?;
    let rules = rules(shared);
    let mut loaded = read_file(&rules, &path, &text)?;
    if !loaded.iter().any(|u| u.name == DEFAULT) {
        loaded.push(rules.default_user());
    }
    let mut table = shared.users.lock();
    let mut old = std::mem::take(&mut table.by_name);
    if let Some(user) = old.remove(DEFAULT) {
        table.by_name.insert(DEFAULT.to_vec(), user);
    }
    loaded.into_iter().for_each(|user| table.put(user));
    drop(table);
    shared.users.changed();
    disconnect(shared, &old.values().map(|u| u.id).collect());
    recheck_waiting(shared);
    Ok(())
}

/// What the system says, without its number.
fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

/// The users of a file's text. `Err` names all that is wrong.
fn read_file(rules: &Rules, path: &str, text: &[u8]) -> Result<Vec<User>, String> {
    let mut users: Vec<User> = Vec::new();
    let mut errors = String::new();
    for (i, line) in text.split(|c| *c == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        match read_line(rules, line, &users) {
            Ok(user) => users.push(user),
            Err(LineError::Duplicate(name)) => {
                errors += &format!("WARNING: Duplicate user '{name}' found on line {}. ", i + 1);
            }
            Err(LineError::Other(error)) => errors += &format!("{path}:{}: {error}. ", i + 1),
        }
    }
    if errors.is_empty() {
        return Ok(users);
    }
    Err(errors + "WARNING: ACL errors detected, no change to the previously active ACL rules was performed")
}

enum LineError {
    Duplicate(String),
    Other(String),
}

fn read_line(rules: &Rules, line: &[u8], known: &[User]) -> Result<User, LineError> {
    let shown = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let words: Vec<&[u8]> = line.split(|c| *c == b' ').map(|w| w.trim_ascii()).collect();
    let [b"user", name, words @ ..] = words.as_slice() else {
        return Err(LineError::Other("should start with user keyword followed by the username".into()));
    };
    if has_spaces(name) {
        return Err(LineError::Other(format!("username '{}' contains invalid characters", shown(name))));
    }
    if known.iter().any(|u| u.name == *name) {
        return Err(LineError::Duplicate(shown(name)));
    }
    let mut user = rules.new_user(name);
    let merged = engine::acl::merge_selectors(words)
        .map_err(|_| LineError::Other("Unmatched parenthesis in selector definition".into()))?;
    for word in merged {
        rules.apply(&mut user, &word).map_err(|e| match e {
            // Others might show a password.
            engine::acl::RuleError::Unknown => {
                LineError::Other(format!("Error in applying operation '{}': {e}", shown(&word)))
            }
            _ => LineError::Other(e.to_string()),
        })?;
    }
    Ok(user)
}

/// ACL SAVE: writes all users to the file, whole or not at all.
pub fn save_file<E: Env>(shared: &Shared<E>) -> std::io::Result<()> {
    let path = shared.config().get("aclfile").to_string();
    let mut text = Vec::new();
    for user in shared.users.all() {
        text.extend_from_slice(&user.line(&shared.engine.table));
        text.push(b'\n');
    }
    let temporary = format!("{path}.tmp-{}", shared.run_id);
    let written = write_durably(&temporary, &text).and_then(|()| std::fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write_durably(path: &str, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> engine::Table {
        crate::commands::table()
    }

    fn read(text: &str) -> Result<Vec<User>, String> {
        let table = table();
        read_file(&Rules { table: &table, has_all_channels: false }, "f", text.as_bytes())
    }

    #[test]
    fn a_file_is_taken_whole_or_not_at_all() {
        let users = read("user a on +get ~*\n\n  user b off (+set ~x) \r\n").unwrap();
        assert_eq!(users.iter().map(|u| u.name.as_slice()).collect::<Vec<_>>(), [b"a", b"b"]);
        let error = read("user a on\nuser a off\nfoo\nuser b +nonsense\nuser c (+get\n").err().unwrap();
        assert_eq!(
            error,
            "WARNING: Duplicate user 'a' found on line 2. f:3: should start with user keyword followed by the username. f:4: Error in applying operation '+nonsense': Unknown command or category name in ACL. f:5: Unmatched parenthesis in selector definition. WARNING: ACL errors detected, no change to the previously active ACL rules was performed"
        );
    }

    #[test]
    fn a_session_takes_up_changes_and_notices_that_its_user_is_gone() {
        let table = table();
        let rules = Rules { table: &table, has_all_channels: false };
        let users = Users::new(&table);
        let mut session = Session::new(1);
        users.begin(&mut session);
        assert!(session.is_free());
        users.set_default_password(&rules, b"secret");
        assert_ne!(session.users_epoch, users.epoch());
        assert!(matches!(users.renew(&mut session), Renewed::Same));
        assert!(session.is_authenticated(), "who is in stays in");
        assert!(users.authenticate(DEFAULT, b"wrong").is_none());
        assert!(users.authenticate(DEFAULT, b"secret").is_some());

        let mut user = rules.new_user(b"u");
        rules.apply_all(&mut user, &[b"on", b"nopass", b"+get"]).unwrap();
        users.lock().put(user.clone());
        let logged_in = users.authenticate(b"u", b"").unwrap();
        session.set_user(Some(logged_in), true);
        assert!(!session.is_free());
        users.lock().by_name.remove(b"u".as_slice());
        users.lock().put(user);
        assert!(matches!(users.renew(&mut session), Renewed::Gone), "another user of the same name");
        assert!(!session.is_authenticated());
    }
}
