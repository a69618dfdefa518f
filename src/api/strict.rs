//! Reads what a user wrote as the API server reads it: fields that do not exist are named, and not passed over.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a document says, and the paths of its fields that nobody knows.
pub fn read_strictly<T: DeserializeOwned>(
    document: Value,
) -> Result<(T, Vec<String>), serde_json::Error> {
    let mut unknown = Vec::new();
    // Of a field that may be left out the path has a step more, `?`.
    let read = serde_ignored::deserialize(document, |path| {
        unknown.push(path.to_string().replace(".?", ""));
    })?;
    Ok((read, unknown))
}
