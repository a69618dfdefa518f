//! Compares `src/ignore` with the answers of the Go implementations, which `dev/patterns/generate`
//! wrote to `answers.gz`.

mod answers;
mod tree;

use answers::{Answer, Answers};
use ocibuild::ignore::{
    Filter, InvalidPattern, ParentMatches, Patterns, combine_includes, follow_links,
    parse_ignore_file,
};
use tree::Tree;

/// Differences that a test shows before it fails.
const SHOWN: usize = 20;

/// Collects what differs.
#[derive(Default)]
struct Comparison {
    compared: usize,
    /// Patterns that Go knows and this implementation refuses.
    unsupported: usize,
    differences: Vec<String>,
}

impl Comparison {
    fn compare<T: PartialEq + std::fmt::Debug>(
        &mut self,
        ours: Result<T, InvalidPattern>,
        theirs: Option<T>,
        question: impl std::fmt::Debug,
    ) {
        self.compared += 1;
        match (&ours, &theirs) {
            (Err(error), Some(_)) if is_unsupported(error) => self.unsupported += 1,
            (Err(_), None) => {}
            (Ok(ours), Some(theirs)) if ours == theirs => {}
            _ => self.differences.push(format!("{question:?}: ours {ours:?}, Go's {theirs:?}")),
        }
    }

    fn finish(self, what: &str, least: usize) {
        let Self { compared, unsupported, differences } = self;
        println!("{what}: {compared} compared, {unsupported} refused as unsupported");
        assert!(compared >= least, "{what}: only {compared} cases");
        assert!(
            differences.is_empty(),
            "{what}: {} of {compared} differ:\n{}",
            differences.len(),
            differences[..differences.len().min(SHOWN)].join("\n")
        );
    }
}

/// The exceptions from equality. All of them refuse a pattern, so that no file is sent by mistake.
///
/// - `\p{…}` and `\P{…}`: which characters belong to them depends on the release of Go.
fn is_unsupported(error: &InvalidPattern) -> bool {
    error.reason == "Unicode classes (\\p) are not supported"
}

/// Matches a path as a walk does: its parent directories, then the path.
fn walked(patterns: &Patterns, path: &[u8]) -> Result<bool, InvalidPattern> {
    let mut parent = ParentMatches::default();
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    for (slash, _) in slashes {
        (_, parent) = patterns.matches_below(&parent, &path[..slash])?;
    }
    Ok(patterns.matches_below(&parent, path)?.0)
}

/// Reports whether a path leads out of the tree by its `..`. Go looks for links there, and fails in
/// some cases. This implementation never looks outside and takes nothing to be there.
fn leaves_root(path: &[u8]) -> bool {
    let mut depth = 0;
    path.split(|byte| *byte == b'/').any(|part| {
        depth += match part {
            b"" | b"." => 0,
            b".." => -1,
            _ => 1,
        };
        depth < 0
    })
}

fn shown(text: &[u8]) -> String {
    text.escape_ascii().to_string()
}

fn shown_all(texts: &[Vec<u8>]) -> Vec<String> {
    texts.iter().map(|text| shown(text)).collect()
}

#[test]
fn every_answer_is_that_of_go() {
    let mut answers = Answers::open();
    pattern_lists(&mut answers);
    ignore_files(&mut answers);
    trees(&mut answers);
    assert!(answers.is_at_end(), "there are answers left");
}

fn pattern_lists(answers: &mut Answers) {
    let mut comparison = Comparison::default();
    for _ in 0..answers.number() {
        let list = answers.list();
        let is_accepted = answers.answer() == Answer::Yes;
        let patterns = Patterns::new(&list);
        comparison.compare(
            patterns.as_ref().map(|_| ()).map_err(Clone::clone),
            is_accepted.then_some(()),
            shown_all(&list),
        );
        if !is_accepted {
            continue;
        }
        for _ in 0..answers.number() {
            let path = answers.text();
            let (with_parents, in_walk) = (answers.answer(), answers.answer());
            // Patterns are compiled once, and only if they are needed: each question gets its own.
            for (is_walk, theirs) in [(false, with_parents), (true, in_walk)] {
                let ours = Patterns::new(&list).and_then(|patterns| {
                    if is_walk { walked(&patterns, &path) } else { patterns.matches(&path) }
                });
                let question = (shown_all(&list), shown(&path), is_walk);
                comparison.compare(ours, theirs.into_bool(), question);
            }
        }
    }
    comparison.finish("patterns and paths", 200_000);
}

fn ignore_files(answers: &mut Answers) {
    let mut comparison = Comparison::default();
    for _ in 0..answers.number() {
        let content = answers.text();
        let theirs = (answers.answer() == Answer::Yes).then(|| answers.list());
        let ours = parse_ignore_file(&content).map(|file| file.patterns).ok();
        comparison.compare(Ok(ours), Some(theirs), shown(&content));
    }
    comparison.finish(".dockerignore files", 5_000);
}

fn trees(answers: &mut Answers) {
    let (mut links, mut walks) = (Comparison::default(), Comparison::default());
    for _ in 0..answers.number() {
        let tree = Tree::read(answers);
        let (includes, excludes, paths) = (answers.list(), answers.list(), answers.list());
        let question = format!(
            "{tree:?}\n  include {:?} exclude {:?} follow {:?}\n ",
            shown_all(&includes),
            shown_all(&excludes),
            shown_all(&paths)
        );
        let (answer, list) = (answers.answer(), answers.list());
        let theirs = answer.into_bool().map(|is_filtered| is_filtered.then_some(list));
        let followed = follow_links(&tree, &paths);
        if followed.is_ok() && theirs.is_none() && paths.iter().any(|path| leaves_root(path)) {
            assert_eq!(answers.answer(), Answer::Refused);
            continue;
        }
        let ours = followed.as_ref().map(Clone::clone).ok();
        links.compare(Ok(ours), Some(theirs), &question);

        let theirs = (answers.answer() == Answer::Yes).then(|| answers.list());
        let theirs = theirs.map(|paths| shown_all(&paths));
        let ours = followed.map_err(|_| None).and_then(|followed| {
            // Go does not look for links if no paths are to be followed.
            let followed = if paths.is_empty() { None } else { followed };
            let includes = combine_includes(includes, followed);
            let filter = Filter::new(&includes, &excludes).map_err(Some)?;
            tree.walk(&filter).map(|paths| shown_all(&paths))
        });
        match ours {
            Err(Some(error)) => walks.compare(Err(error), theirs, &question),
            ours => walks.compare(Ok(ours.ok()), Some(theirs), &question),
        }
    }
    links.finish("followed paths", 5_000);
    walks.finish("walks", 5_000);
}
