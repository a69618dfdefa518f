//! Values that no line, message or result may hold, whoever says them: a registry can answer with the credentials that it was
//! sent, and a step can print its secrets. Pure.

use std::{borrow::Cow, sync::Arc};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

/// What stands in the place of a value.
const HIDDEN: &str = "***";
/// Shorter values are words of every day; hiding them would make a log unreadable without hiding a secret.
const LEAST: usize = 6;
/// Lines of a value of several lines, such as a key.
const LINES_LIMIT: usize = 1000;

/// Finds the values in texts.
#[derive(Clone, Debug, Default)]
pub struct Confidential {
    values: Vec<String>,
    finder: Option<Arc<AhoCorasick>>,
}

impl Confidential {
    /// Hides these from now on, too; of a value of several lines each line.
    pub fn add(&mut self, values: impl IntoIterator<Item = String>) {
        let lines = values.into_iter().flat_map(|value| {
            value.lines().take(LINES_LIMIT).map(str::to_owned).collect::<Vec<_>>()
        });
        self.values
            .extend(lines.map(|line| line.trim().to_owned()).filter(|line| line.len() >= LEAST));
        self.values.sort_unstable();
        self.values.dedup();
        // More than a finder can hold cannot come of files that have limits.
        self.finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&self.values)
            .ok()
            .map(Arc::new);
    }

    /// The text without them.
    pub fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some(finder) = self.finder.as_ref().filter(|finder| finder.is_match(text)) else {
            return Cow::Borrowed(text);
        };
        let mut hidden = String::with_capacity(text.len());
        finder.replace_all_with(text, &mut hidden, |_, _, hidden| {
            hidden.push_str(HIDDEN);
            true
        });
        Cow::Owned(hidden)
    }
}

/// The confidential values of a Docker configuration's `auths`: as they are sent, and the passwords in them.
pub fn of_credentials(credentials: &Value) -> Vec<String> {
    let field = |name: &str| credentials.get(name).and_then(Value::as_str).map(str::to_owned);
    let sent: Vec<String> = ["auth", "password", "identitytoken", "registrytoken"]
        .into_iter()
        .filter_map(field)
        .collect();
    let pair =
        field("auth").and_then(|auth| String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok());
    let given = field("username")
        .zip(field("password"))
        .map(|(user, password)| format!("{user}:{password}"));
    let encoded = given.as_ref().map(|given| STANDARD.encode(given));
    let password = pair
        .as_ref()
        .and_then(|pair| Some(pair.split_once(':')?.1.trim_end_matches('\0').to_owned()));
    sent.into_iter().chain(pair).chain(given).chain(encoded).chain(password).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Confidential, of_credentials};

    #[test]
    fn what_is_confidential_is_hidden_in_every_form_and_all_else_is_said() {
        let mut confidential = Confidential::default();
        assert_eq!(confidential.hide("hunter22"), "hunter22");
        confidential.add(of_credentials(&json!({ "auth": "bWU6aHVudGVyMjI=" })));
        confidential.add(of_credentials(
            &json!({ "username": "you", "password": "correct-horse", "identitytoken": "token-1" }),
        ));
        confidential.add([
            "short".to_owned(),
            "-----BEGIN KEY-----\nAAAABBBB\n  CCCCDDDD\n".to_owned(),
            String::new(),
        ]);
        for (text, expected) in [
            (
                "denied: Authorization: Basic bWU6aHVudGVyMjI= (that is me:hunter22)",
                "denied: Authorization: Basic *** (that is ***)",
            ),
            ("password hunter22, hunter2 is another", "password ***, hunter2 is another"),
            ("you:correct-horse as eW91OmNvcnJlY3QtaG9yc2U= with token-1", "*** as *** with ***"),
            ("short words are said: short", "short words are said: short"),
            ("AAAABBBB then CCCCDDDD", "*** then ***"),
        ] {
            assert_eq!(confidential.hide(text), expected);
        }
    }
}
