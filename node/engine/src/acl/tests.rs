use super::*;
use crate::Table;

fn table() -> Table {
    Table::new(crate::commands::all())
}

fn words(text: &str) -> Vec<&[u8]> {
    text.split('|').flat_map(|w| w.split(' ')).map(|w| w.as_bytes()).collect()
}

fn user(table: &Table, text: &str) -> User {
    let rules = Rules { table, has_all_channels: false };
    let mut user = rules.new_user(b"u");
    let words: Vec<&[u8]> = text.split(' ').map(|w| w.as_bytes()).collect();
    rules.apply_all(&mut user, &words).unwrap();
    user
}

fn denied(text: &str, command: &str) -> Option<Reason> {
    let table = table();
    let user = user(&table, text);
    let args = words(command);
    user.check(table.find(&args).unwrap(), &args).err().map(|d| d.reason)
}

fn described(text: &str) -> String {
    let table = table();
    String::from_utf8(user(&table, text).describe(&table)).unwrap()
}

fn wrong(text: &str) -> String {
    let table = table();
    let rules = Rules { table: &table, has_all_channels: false };
    rules.apply_all(&mut rules.new_user(b"u"), &[text.as_bytes()]).unwrap_err()
}

#[test]
fn a_new_user_may_do_nothing() {
    assert_eq!(denied("on", "GET k"), Some(Reason::Command));
    assert_eq!(described(""), "off resetchannels -@all");
}

#[test]
fn commands_by_name_category_and_subcommand() {
    assert_eq!(denied("+get ~*", "GET k"), None);
    assert_eq!(denied("+@read ~*", "GET k"), None);
    assert_eq!(denied("+@all -@string ~*", "GET k"), Some(Reason::Command));
    assert_eq!(denied("+xinfo|stream ~*", "XINFO STREAM k"), None);
    assert_eq!(denied("+xinfo|stream ~*", "XINFO GROUPS k"), Some(Reason::Command));
    assert_eq!(denied("+xinfo -xinfo|groups ~*", "XINFO GROUPS k"), Some(Reason::Command));
}

#[test]
fn a_first_argument_may_be_allowed_alone() {
    assert_eq!(denied("+get|a ~*", "GET A"), None);
    assert_eq!(denied("+get|a ~*", "GET b"), Some(Reason::Command));
    assert_eq!(described("+get|a +get|b"), "off resetchannels -@all +get|a +get|b");
    assert!(wrong("+xinfo|stream|k").ends_with("Allowing first-arg of a subcommand is not supported"));
    assert!(wrong("+xinfo|nonsense").ends_with("Unknown command or category name in ACL"));
    assert!(wrong("-get|a").ends_with("Unknown command or category name in ACL"));
}

#[test]
fn keys_by_pattern_and_access() {
    assert_eq!(denied("+@all ~a*", "GET ab"), None);
    assert_eq!(denied("+@all ~a*", "GET b"), Some(Reason::Key));
    assert_eq!(denied("+@all %R~r* %W~w*", "COPY r w"), None);
    assert_eq!(denied("+@all %R~r* %W~w*", "COPY w r"), Some(Reason::Key));
    assert_eq!(denied("+@all %W~w*", "SET w v"), None);
    assert_eq!(denied("+@all %W~w*", "SET w v GET"), Some(Reason::Key));
    assert_eq!(denied("+@all %R~r*", "SET r v"), Some(Reason::Key));
    // Whether a key is there may be asked by whoever may do anything with it.
    assert_eq!(denied("+@all %W~w*", "EXISTS w"), None);
    assert_eq!(denied("+@all %W~w*", "EXISTS x"), Some(Reason::Key));
}

#[test]
fn arguments_that_fit_no_key_spec_name_no_key() {
    assert_eq!(denied("+@all ~a", "EVAL x 3 b"), None);
    assert_eq!(denied("+@all ~a", "EVAL x 1 b"), Some(Reason::Key));
}

#[test]
fn one_selector_allows_all_of_it() {
    const RULES: &str = "(%R~r* +@all) (%W~w* +@all)";
    assert_eq!(denied(RULES, "GET r"), None);
    assert_eq!(denied(RULES, "LPUSH w v"), None);
    assert_eq!(denied(RULES, "COPY r w"), Some(Reason::Key));
}

#[test]
fn the_last_key_that_no_selector_allows_is_told() {
    let table = table();
    let user = user(&table, "+mget ~key (+mget ~key ~other)");
    let args = words("MGET key other third");
    assert_eq!(user.check(table.find(&args).unwrap(), &args), Err(Denied { reason: Reason::Key, place: 3 }));
}

#[test]
fn any_key_may_be_read_where_a_star_says_so() {
    let table = table();
    let args = words("GET k");
    let spec = table.find(&args).unwrap();
    let may = |text| user(&table, text).may_use_any_key(spec, &args, crate::spec::key::ACCESS);
    assert!(may("+get ~*") && may("+get ~k %R~*"));
    assert!(!may("+get ~k %W~*") && !may("+get ~k (+set ~*)"));
}

#[test]
fn passwords_come_and_go() {
    let table = table();
    let with = user(&table, ">one >two >one");
    assert_eq!(with.passwords().len(), 2);
    assert!(with.is_password(b"one") && with.is_password(b"two") && !with.is_password(b"three"));
    assert!(!user(&table, ">one <one").is_password(b"one"));
    assert!(user(&table, "nopass").is_password(b"whatever"));
    assert!(wrong("<one").ends_with("The password you are trying to remove from the user does not exist"));
    assert!(wrong("#12").contains("must be exactly 64 characters"));
    assert_eq!(
        &hash_password(b"passwd4")[..],
        b"34344e4d60c2b6d639b7bd22e18f2b0b91bc34bf0ac5f9952744435093cfb4e6"
    );
}

#[test]
fn what_is_wrong_is_told() {
    assert_eq!(wrong("%~"), "Error in ACL SETUSER modifier '%~': Syntax error");
    assert_eq!(wrong("%"), "Error in ACL SETUSER modifier '%': Syntax error");
    assert_eq!(wrong("("), "Unmatched parenthesis in acl selector starting at '('.");
    assert!(wrong(" () ").ends_with("Syntax error") && wrong(")").ends_with("Syntax error"));
    assert!(wrong("(&* &a)").contains("Adding a pattern after the *"));
}

#[test]
fn selectors_may_come_as_several_words() {
    assert_eq!(
        described("( ~k +get ) (~l".replace("(~l", "(~l +get)").as_str()),
        "off resetchannels -@all (~k resetchannels -@all +get) (~l resetchannels -@all +get)"
    );
}

#[test]
fn rights_of_reading_and_writing_add_up() {
    assert_eq!(described("%R~a %W~a %RW~b"), "off ~a ~b resetchannels -@all");
}

#[test]
fn the_nearest_categories_are_told() {
    assert_eq!(described("+@all"), "off resetchannels +@all");
    assert_eq!(described("+@all -get"), "off resetchannels +@all -get");
    assert_eq!(described("-@all +@set"), "off resetchannels -@all +@set");
    assert_eq!(described("+xinfo"), "off resetchannels -@all +xinfo");
}

#[test]
fn what_is_told_makes_the_same_user() {
    let table = table();
    let rules = Rules { table: &table, has_all_channels: false };
    let mut rng = crate::Rng::new(7);
    let names: Vec<&str> = crate::spec::acl::NAMES.iter().map(|(_, n)| *n).collect();
    for _ in 0..200 {
        let mut text = String::from("on >p ~a %R~b &c");
        for _ in 0..rng.below(12) {
            let sign = if rng.below(2) == 0 { '+' } else { '-' };
            text += &match rng.below(3) {
                0 => format!(" {sign}@{}", names[rng.below(names.len() as u64) as usize]),
                1 => {
                    let specs = table.specs();
                    format!(" {sign}{}", specs[rng.below(specs.len() as u64) as usize].full_name)
                }
                _ => format!(" {sign}@all"),
            };
        }
        let made = user(&table, &text);
        let told = made.describe(&table);
        let again = rules.read(b"u", &told).unwrap();
        assert_eq!(again.selectors, made.selectors, "{text}: {}", String::from_utf8_lossy(&told));
    }
}
