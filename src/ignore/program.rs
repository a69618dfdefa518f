//! Compiles a parsed expression and runs it on paths.
//!
//! The program simulates a nondeterministic automaton without backtracking: time is at most the
//! product of the program's and the path's length. Like Go's `regexp`, it reads a byte that is
//! not UTF-8 as the rune U+FFFD.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    bytes::{REPLACEMENT, decode},
    charset::CharSet,
    expression::{Alternatives, Node},
};

const LINE_FEED: u32 = 0x0A;
const SLASH: u32 = 0x2F;

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Program {
    instructions: Vec<Instruction>,
    sets: Vec<CharSet>,
    /// Whether a match has to begin at the start of the path.
    is_anchored: bool,
    /// Bytes that every matching path starts with.
    prefix: Vec<u8>,
    /// Bytes that every matching path ends with.
    suffix: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Instruction {
    Rune(u32),
    /// Index of a set.
    Set(usize),
    /// Any rune but a line feed.
    NotLineFeed,
    /// Continues at both places.
    Split(usize, usize),
    /// Continues at another place.
    Jump(usize),
    Start,
    End,
    WordBoundary(bool),
    Match,
}

impl Program {
    /// Compiles an expression. The instructions are taken from the budget; returns `None` if it
    /// is exhausted.
    pub(super) fn compile(alternatives: &Alternatives, budget: &AtomicUsize) -> Option<Self> {
        let mut compiler = Compiler { instructions: Vec::new(), sets: Vec::new(), budget };
        let mut ends = Vec::new();
        for (index, nodes) in alternatives.iter().enumerate() {
            let has_more = index + 1 < alternatives.len();
            let split = compiler.position();
            if has_more {
                compiler.emit(Instruction::Split(split + 1, 0))?;
            }
            compiler.sequence(nodes)?;
            ends.push(compiler.emit(Instruction::Match)?);
            if has_more {
                compiler.instructions[split] = Instruction::Split(split + 1, compiler.position());
            }
        }
        let (mut is_anchored, mut prefix, mut suffix) = (false, Vec::new(), Vec::new());
        if let [nodes] = alternatives.as_slice() {
            if let [Node::Start, rest @ ..] = nodes.as_slice() {
                is_anchored = true;
                prefix = literal(rest.iter()).into_iter().collect::<String>().into_bytes();
            }
            if let [rest @ .., Node::End] = nodes.as_slice() {
                let reversed = literal(rest.iter().rev());
                suffix = reversed.into_iter().rev().collect::<String>().into_bytes();
            }
        }
        let Compiler { instructions, sets, .. } = compiler;
        Some(Self { instructions, sets, is_anchored, prefix, suffix })
    }

    /// Reports whether the expression matches anywhere in the path.
    pub(super) fn is_match(&self, path: &[u8]) -> bool {
        if !path.starts_with(&self.prefix) || !path.ends_with(&self.suffix) {
            return false;
        }
        let mut current = Threads::new(self.instructions.len());
        let mut next = Threads::new(self.instructions.len());
        let (mut position, mut before) = (0, None);
        loop {
            let rune = decode(&path[position..]);
            let place = Place { before, after: rune.map(|(rune, _)| rune) };
            // Threads that wait for an assertion can be judged only here, where both sides of the
            // place are known.
            if !self.is_anchored || position == 0 {
                current.queue.push(0);
            }
            if self.follow(&mut current, place) {
                return true;
            }
            let Some((rune, width)) = rune else { return false };
            if current.waiting.is_empty() && self.is_anchored {
                return false;
            }
            for thread in current.waiting.drain(..) {
                if self.consumes(thread, rune) {
                    next.queue.push(thread + 1);
                }
            }
            current.clear();
            std::mem::swap(&mut current, &mut next);
            (position, before) = (position + width, Some(rune));
        }
    }

    /// Advances the queued threads to the instructions that consume a rune. Returns true if one
    /// of them reaches the match.
    fn follow(&self, threads: &mut Threads, place: Place) -> bool {
        while let Some(thread) = threads.queue.pop() {
            if std::mem::replace(&mut threads.visited[thread], true) {
                continue;
            }
            threads.marked.push(thread);
            let holds = match self.instructions[thread] {
                Instruction::Match => return true,
                Instruction::Split(first, second) => {
                    threads.queue.extend([first, second]);
                    false
                }
                Instruction::Jump(to) => {
                    threads.queue.push(to);
                    false
                }
                Instruction::Start => place.before.is_none(),
                Instruction::End => place.after.is_none(),
                Instruction::WordBoundary(expected) => place.is_word_boundary() == expected,
                Instruction::Rune(_) | Instruction::Set(_) | Instruction::NotLineFeed => {
                    threads.waiting.push(thread);
                    false
                }
            };
            if holds {
                threads.queue.push(thread + 1);
            }
        }
        false
    }

    fn consumes(&self, thread: usize, rune: u32) -> bool {
        match self.instructions[thread] {
            Instruction::Rune(expected) => rune == expected,
            Instruction::Set(set) => self.sets[set].contains(rune),
            Instruction::NotLineFeed => rune != LINE_FEED,
            _ => false,
        }
    }
}

/// Returns the leading literals. U+FFFD also matches bytes that are not UTF-8 and ends them.
fn literal<'n>(nodes: impl Iterator<Item = &'n Node>) -> Vec<char> {
    nodes
        .map_while(|node| match node {
            Node::Rune(rune) if *rune != REPLACEMENT => char::from_u32(*rune),
            _ => None,
        })
        .collect()
}

/// A place between two runes.
#[derive(Clone, Copy)]
struct Place {
    before: Option<u32>,
    after: Option<u32>,
}

impl Place {
    fn is_word_boundary(self) -> bool {
        is_word(self.before) != is_word(self.after)
    }
}

fn is_word(rune: Option<u32>) -> bool {
    rune.and_then(char::from_u32).is_some_and(|rune| rune.is_ascii_alphanumeric() || rune == '_')
}

/// The threads of the simulation at one place.
struct Threads {
    /// Threads to advance.
    queue: Vec<usize>,
    /// Threads whose instruction consumes a rune.
    waiting: Vec<usize>,
    visited: Vec<bool>,
    marked: Vec<usize>,
}

impl Threads {
    fn new(length: usize) -> Self {
        Self {
            queue: Vec::new(),
            waiting: Vec::new(),
            visited: vec![false; length],
            marked: Vec::new(),
        }
    }

    fn clear(&mut self) {
        for thread in self.marked.drain(..) {
            self.visited[thread] = false;
        }
    }
}

struct Compiler<'b> {
    instructions: Vec<Instruction>,
    sets: Vec<CharSet>,
    budget: &'b AtomicUsize,
}

impl Compiler<'_> {
    fn position(&self) -> usize {
        self.instructions.len()
    }

    fn emit(&mut self, instruction: Instruction) -> Option<usize> {
        let take = |left: usize| left.checked_sub(1);
        self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        self.instructions.push(instruction);
        Some(self.instructions.len() - 1)
    }

    fn sequence(&mut self, nodes: &[Node]) -> Option<()> {
        for (index, node) in nodes.iter().enumerate() {
            // Directories after directories add nothing.
            if *node == Node::Directories && index > 0 && nodes[index - 1] == Node::Directories {
                continue;
            }
            self.node(node)?;
        }
        Some(())
    }

    fn node(&mut self, node: &Node) -> Option<()> {
        match node {
            Node::Rune(rune) => self.emit(Instruction::Rune(*rune)).map(drop),
            Node::Set(set) => {
                let index = self.sets.iter().position(|known| known == set).unwrap_or_else(|| {
                    self.sets.push(set.clone());
                    self.sets.len() - 1
                });
                self.emit(Instruction::Set(index)).map(drop)
            }
            Node::Directories => self.optional(|compiler| {
                compiler.star(|compiler| compiler.emit(Instruction::NotLineFeed).map(drop))?;
                compiler.emit(Instruction::Rune(SLASH)).map(drop)
            }),
            Node::AnyRun => self.star(|compiler| compiler.emit(Instruction::NotLineFeed).map(drop)),
            Node::Repeat { node, min, max } => self.repeat(node, *min, *max),
            Node::Start => self.emit(Instruction::Start).map(drop),
            Node::End => self.emit(Instruction::End).map(drop),
            Node::WordBoundary(expected) => {
                self.emit(Instruction::WordBoundary(*expected)).map(drop)
            }
        }
    }

    fn repeat(&mut self, node: &Node, min: u32, max: Option<u32>) -> Option<()> {
        for _ in 0..min {
            self.node(node)?;
        }
        let Some(max) = max else { return self.star(|compiler| compiler.node(node)) };
        let mut splits = Vec::new();
        for _ in min..max {
            let split = self.position();
            splits.push(self.emit(Instruction::Split(split + 1, 0))?);
            self.node(node)?;
        }
        let end = self.position();
        for split in splits {
            self.instructions[split] = Instruction::Split(split + 1, end);
        }
        Some(())
    }

    fn optional(&mut self, body: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let split = self.position();
        self.emit(Instruction::Split(split + 1, 0))?;
        body(self)?;
        self.instructions[split] = Instruction::Split(split + 1, self.position());
        Some(())
    }

    fn star(&mut self, body: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let split = self.position();
        self.optional(|compiler| {
            body(compiler)?;
            compiler.emit(Instruction::Jump(split)).map(drop)
        })
    }
}
