//! The details of a gRPC error that a daemon or a frontend answers, from the bytes of
//! `grpc-status-details-bin` to the failure that a build reports.

use base64::{Engine, engine::general_purpose::STANDARD};
use ocibuild::{
    buildkit::{SolveError, SolveFailure, proto::google::rpc},
    runner::{
        diagnose::{Activity, Evidence, diagnose},
        progress::FailedStep,
    },
};
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::{
    hold, large_input, made_of,
    wire::{damage, noise},
};

const TYPES: &[&str] = &[
    "github.com/moby/buildkit/errdefs.Vertex+json",
    "github.com/moby/buildkit/errdefs.Source+json",
    "github.com/moby/buildkit/errdefs.Source+json",
    "github.com/moby/buildkit/errdefs.Solve+json",
    "moby.buildkit.v1.frontend.ExitMessage",
    "gatewayapi.ExitMessage+json",
    "errdefs.Frontend",
    "stack.Stack+json",
    "/",
    "",
];
const WORDS: &[&str] = &[
    "failed to push ",
    "unexpected status from PUT request to https://r/v2/?secret: ",
    "401 Unauthorized",
    ": 500",
    " 99999999999",
    "secret ",
    ": not found",
    "dockerfile parse error on line 4294967295",
    "ä",
    "\n",
    "\0",
    "\u{1b}[2J",
    "process \"",
    "\" did not complete successfully: exit code: -1",
    "retry-after: 99999999999999999999",
    "x509: ",
];

/// Parts of a failure hold at most these numbers of bytes and lines.
const MAX_TEXT_BYTES: usize = 64 << 10;
const MAX_NAME_BYTES: usize = 4096;
const MAX_LINES: usize = 30;
const MAX_LINE_BYTES: usize = 512;

fn a_number() -> BoxedStrategy<Value> {
    prop_oneof![
        6 => (0..12_u32).prop_map(Value::from),
        1 => prop::sample::select(vec![
            json!(u32::MAX),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(-1),
            json!(1e300),
            json!(1.5),
            json!("3"),
            Value::Null,
        ]),
        1 => any::<u32>().prop_map(Value::from),
    ]
    .boxed()
}

/// A value of a type that no field has.
fn a_strange_value() -> BoxedStrategy<Value> {
    let nested = |depth| (0..depth).fold(json!(1), |value, _| json!([value]));
    prop_oneof![
        Just(json!({})),
        Just(json!([])),
        Just(json!("text")),
        Just(Value::Null),
        Just(nested(100)),
        a_number(),
    ]
    .boxed()
}

fn or_strange(value: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop_oneof![8 => value, 1 => a_strange_value()].boxed()
}

fn a_text() -> BoxedStrategy<String> {
    prop_oneof![
        120 => made_of(WORDS, 6),
        30 => any::<String>(),
        1 => Just("ä".repeat(40_000)),
    ]
    .boxed()
}

fn a_file() -> BoxedStrategy<Value> {
    let text = prop_oneof![
        6 => made_of(&["RUN x", "\n", "\r\n", "ä", "\0"], 40).prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..60),
        1 => Just(b"long line ".repeat(200)),
        1 => Just(b"\n".repeat(2000)),
    ];
    let encoded = text.prop_map(|text| STANDARD.encode(text));
    let damaged = (encoded.clone(), any::<prop::sample::Index>(), any::<char>()).prop_map(
        |(mut text, at, other)| {
            text.insert(at.index(text.len() + 1), other);
            text
        },
    );
    or_strange(prop_oneof![4 => encoded, 1 => damaged].prop_map(Value::from).boxed())
}

fn a_source() -> BoxedStrategy<Value> {
    let position = || {
        let position = (a_number(), a_number())
            .prop_map(|(line, character)| json!({ "line": line, "character": character }));
        or_strange(position.boxed())
    };
    let range =
        (position(), position()).prop_map(|(start, end)| json!({ "start": start, "end": end }));
    let ranges = prop::collection::vec(or_strange(range.boxed()), 0..4).prop_map(Value::from);
    let name = or_strange(a_text().prop_map(Value::from).boxed());
    let info = (name, a_file()).prop_map(|(name, data)| json!({ "filename": name, "data": data }));
    (or_strange(info.boxed()), or_strange(ranges.boxed()))
        .prop_map(|(info, ranges)| json!({ "info": info, "ranges": ranges }))
        .boxed()
}

/// JSON for any of the types. Half of it is a source, the only detail of several parts.
fn some_json() -> BoxedStrategy<Vec<u8>> {
    let text = || or_strange(a_text().prop_map(Value::from).boxed());
    let solve = text().prop_map(|identifier| {
        json!({ "op": { "Op": { "Source": { "identifier": identifier } } }, "inputIDs": null })
    });
    let value = prop_oneof![
        4 => a_source(),
        1 => text().prop_map(|digest| json!({ "digest": digest })),
        1 => a_number().prop_map(|code| json!({ "Code": code })),
        1 => solve,
        1 => a_strange_value(),
    ];
    let deep = (1..3000_usize, prop::sample::select(vec!["[", "{\"op\":", "{\"info\":"]))
        .prop_map(|(depth, piece)| piece.repeat(depth).into_bytes());
    prop_oneof![
        12 => value.prop_map(|value| value.to_string().into_bytes()),
        1 => deep,
        1 => noise(40),
    ]
    .boxed()
}

fn details() -> impl Strategy<Value = Vec<u8>> {
    let detail = (prop::sample::select(TYPES), some_json())
        .prop_map(|(name, value)| prost_types::Any { type_url: name.to_owned(), value });
    let status = (prop::collection::vec(detail, 0..4), a_text()).prop_map(|(details, message)| {
        rpc::Status { details, message, ..rpc::Status::default() }.encode_to_vec()
    });
    (status, damage()).prop_map(|(status, damage)| damage.apply(status))
}

fn check(
    message: &str,
    details: Vec<u8>,
    step: Option<&FailedStep>,
    activity: Activity,
) -> Result<(), TestCaseError> {
    let status = Status::with_details(Code::Unknown, message, details.into());
    let failure = SolveFailure::of(&status);
    prop_assert!(failure.message.len() <= MAX_TEXT_BYTES);
    let names = [
        failure.vertex.as_ref().map(|vertex| &vertex.digest),
        failure.location.as_ref().map(|location| &location.file),
        failure.source_identifier.as_ref(),
    ];
    prop_assert!(names.into_iter().flatten().all(|name| name.len() <= MAX_NAME_BYTES));
    prop_assert!(failure.excerpt.len() <= MAX_LINES);
    prop_assert!(failure.excerpt.iter().all(|line| line.text.len() <= MAX_LINE_BYTES));
    if let Some(location) = &failure.location {
        prop_assert!(location.first_line <= location.last_line, "{location:?}");
        let numbers = failure.excerpt.windows(2).all(|two| two[0].number + 1 == two[1].number);
        prop_assert!(numbers, "{:?}", failure.excerpt);
    }
    let length = failure.message.len() + MAX_NAME_BYTES;
    let error = SolveError::Failed(Box::new(failure));
    let found = diagnose(&Evidence { error: &error, step, activity });
    let answer: usize = step.iter().flat_map(|step| &step.tail).map(String::len).sum();
    prop_assert!(found.message.len() <= length + answer + 40, "{found:?}");
    Ok(())
}

fn a_step() -> impl Strategy<Value = Option<FailedStep>> {
    let name = prop::sample::select(vec!["[1/2] RUN x", "exporting to image", ""]);
    let step = (name, made_of(WORDS, 4), prop::collection::vec(made_of(WORDS, 4), 0..3))
        .prop_map(|(name, error, tail)| FailedStep { name: name.to_owned(), error, tail });
    prop::option::of(step)
}

fn an_activity() -> impl Strategy<Value = Activity> {
    prop::sample::select(vec![Activity::Build, Activity::FetchSource])
}

#[test]
fn details_that_are_almost_valid_are_read_or_skipped() {
    let inputs = (a_text(), details(), a_step(), an_activity());
    hold(2, inputs, |(message, details, step, activity)| {
        check(&message, details, step.as_ref(), activity)
    });
}

#[test]
fn arbitrary_bytes_are_no_details() {
    let inputs = (any::<String>(), noise(200), a_step(), an_activity());
    hold(2, inputs, |(message, details, step, activity)| {
        check(&message, details, step.as_ref(), activity)
    });
}

/// Thousands of details, and one of the greatest size that a header can have.
#[test]
fn details_that_fill_the_largest_header_take_little_memory() {
    let _alone = large_input();
    let any = |json: Vec<u8>| prost_types::Any {
        type_url: "errdefs.Source+json".to_owned(),
        value: json,
    };
    let largest = 12 << 20;
    let data = STANDARD.encode(b"\n\xff".repeat(largest / 3));
    let ranges = format!("{{\"ranges\":[{}{{}}]}}", "{},".repeat(largest / 3 - 20));
    let file = format!(
        "{{\"info\":{{\"data\":\"{data}\"}},\"ranges\":[{{\"start\":{{\"line\":4294967295}},\
         \"end\":{{}}}}]}}"
    );
    for details in [
        vec![any(ranges.into_bytes())],
        vec![any(file.into_bytes())],
        vec![any(b"{}".to_vec()); largest / 30],
    ] {
        let details = rpc::Status { details, ..rpc::Status::default() }.encode_to_vec();
        check("failed", details, None, Activity::Build).unwrap();
    }
}
