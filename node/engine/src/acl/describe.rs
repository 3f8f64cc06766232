//! Users as text, in the words of ACL SETUSER: applied to a new user they make the same one.
//!
//! Commands are told by the categories that come nearest, best first, and what is left by name, as in Redis 7.0.

use super::selector::{Selector, access};
use super::{User, rules::Rules};
use crate::spec::acl;
use crate::table::{Spec, Table};

impl User {
    /// The rules, without the user's name.
    pub fn describe(&self, table: &Table) -> Vec<u8> {
        let mut words: Vec<Vec<u8>> = self.flags().iter().map(|f| f.as_bytes().to_vec()).collect();
        words.extend(self.passwords.iter().map(|p| [b"#", p.as_slice()].concat()));
        words.push(self.root().describe(table));
        words.extend(
            self.more_selectors().iter().map(|s| [b"(", s.describe(table).as_slice(), b")"].concat()),
        );
        words.join(&b' ')
    }
    /// As [`User::describe`], as a line of a configuration.
    pub fn line(&self, table: &Table) -> Vec<u8> {
        [b"user", self.name.as_slice(), &self.describe(table)].join(&b' ')
    }
    /// Words that are no commands, keys or channels, in the order of ACL LIST.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.is_enabled { "on" } else { "off" }];
        if self.is_nopass {
            flags.push("nopass");
        }
        match self.skips_sanitizing {
            Some(true) => flags.push("skip-sanitize-payload"),
            Some(false) => flags.push("sanitize-payload"),
            None => {}
        }
        flags
    }
}

impl Selector {
    fn describe(&self, table: &Table) -> Vec<u8> {
        let mut words: Vec<Vec<u8>> = Vec::new();
        let keys = self.describe_keys();
        if !keys.is_empty() {
            words.push(keys);
        }
        if !self.has_all_channels {
            words.push(b"resetchannels".to_vec());
        }
        let channels = self.describe_channels();
        if !channels.is_empty() {
            words.push(channels);
        }
        words.push(self.describe_commands(table).into_bytes());
        words.join(&b' ')
    }

    /// Patterns of keys, with a space between.
    pub fn describe_keys(&self) -> Vec<u8> {
        if self.has_all_keys {
            return b"~*".to_vec();
        }
        let sign = |of| match of {
            access::READ => &b"%R~"[..],
            access::WRITE => b"%W~",
            _ => b"~",
        };
        let words: Vec<Vec<u8>> = self.keys.iter().map(|k| [sign(k.access), &k.pattern].concat()).collect();
        words.join(&b' ')
    }

    /// Patterns of channels, with a space between.
    pub fn describe_channels(&self) -> Vec<u8> {
        if self.has_all_channels {
            return b"&*".to_vec();
        }
        let words: Vec<Vec<u8>> = self.channels.iter().map(|c| [b"&", c.as_slice()].concat()).collect();
        words.join(&b' ')
    }

    /// Rules that allow exactly the commands that this one does.
    pub fn describe_commands(&self, table: &Table) -> String {
        let mut made = Selector::new(table, false);
        // What is still to be told.
        let mut left = self.clone();
        let is_adding = !self.has_future;
        made.change_all(table, !is_adding);
        let mut words = vec![if is_adding { "-@all" } else { "+@all" }.to_string()];
        let sign = if is_adding { '+' } else { '-' };
        let mut used = 0;
        while let Some((category, name)) = left.nearest_category(table, used, is_adding) {
            made.change_category(table, category, is_adding);
            left.change_category(table, category, !is_adding);
            used |= category;
            words.push(format!("{sign}@{name}"));
        }
        for spec in table.commands() {
            self.describe_command(spec, &mut made, &mut words);
            spec.subcommands.iter().for_each(|sub| self.describe_command(sub, &mut made, &mut words));
            // As told by its words alone: subcommands come before, and do not forget them.
            if !self.allows(spec.id) {
                for first in self.first_args.get(&spec.id).into_iter().flatten() {
                    words.push(format!("+{}|{}", spec.full_name, String::from_utf8_lossy(first)));
                }
            }
        }
        assert!(made.is_same_commands(self), "the rules told are not those of the user");
        words.join(" ")
    }

    fn describe_command(&self, spec: &Spec, made: &mut Selector, words: &mut Vec<String>) {
        let is_allowed = self.allows(spec.id);
        if is_allowed != made.allows(spec.id) {
            words.push(format!("{}{}", if is_allowed { '+' } else { '-' }, spec.full_name));
            made.change(spec, is_allowed);
        }
    }

    /// The category, not used yet, that is right for more commands than it is wrong for: the fewest wrong ones first, then
    /// the most right ones.
    fn nearest_category(&self, table: &Table, used: u32, is_adding: bool) -> Option<(u32, &'static str)> {
        let mut best: Option<(usize, usize, (u32, &'static str))> = None;
        for (category, name) in acl::NAMES.iter().filter(|(c, _)| used & c == 0) {
            let of = table.specs().iter().filter(|s| s.acl & category != 0);
            let (mut same, mut different) = (0, 0);
            of.for_each(|s| *(if self.allows(s.id) == is_adding { &mut same } else { &mut different }) += 1);
            let is_better =
                best.is_none_or(|(wrong, right, _)| different < wrong || different == wrong && same > right);
            if same > different && is_better {
                best = Some((different, same, (*category, *name)));
            }
        }
        best.map(|(.., category)| category)
    }
}

impl Rules<'_> {
    /// Reads what [`User::describe`] wrote.
    #[cfg(test)]
    pub(super) fn read(&self, name: &[u8], text: &[u8]) -> Result<User, String> {
        let mut user = self.new_user(name);
        let words: Vec<&[u8]> = text.split(|c| *c == b' ').collect();
        self.apply_all(&mut user, &words).map(|()| user)
    }
}
