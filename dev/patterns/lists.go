package main

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// pieces of patterns. The first ones occur more often than the others.
var pieces = []string{
	"a", "b", "ab", "/", "*", "**", "**/", "?", ".", "foo", "/**", "/*", "é", "世", "x",
	"[", "]", "[a-c]", "[^a]", "[^/]", "[é-世]", "[]", "[b-a]", "[a-]", "[-a]", "[*]", "[**]", "[?]",
	"[[:alpha:]]", "[[:^digit:]]", "[[:nope:]]", "[a&&b]", "[a--b]", "[[a]b]", "[a.b]", "[\\]]",
	"[\\d]", "[\\W-]", "[^\\s]", "[a-\\x7a]", "[|]", "[{}]",
	"^", "-", "\\", "\\*", "\\?", "\\[", "\\]", "\\\\", "\\a", "\\b", "\\B", "\\d", "\\D", "\\s", "\\S",
	"\\w", "\\W", "\\A", "\\z", "\\Z", "\\C", "\\Q", "\\E", "\\n", "\\t", "\\y", "\\_", "\\é", "\\1",
	"\\12", "\\0", "\\061", "\\x41", "\\x{e9}", "\\x{4e16}", "\\x{}", "\\x{110000}", "\\xz", "\\pL",
	"\\p{Greek}", "\\P{L}", "!", "..", "../", "./", "//", "{", "}", "{2}", "{0}", "{1,}", "{,2}",
	"{2,1}", "{0,2}", "{1001}", "{02}", "{a,b}", "(", ")", "(?i)", "$", "|", "+", " ", "\t", "\u00a0",
	"\n", "\ufeff", "\ufffd", "\xff", "\xc3", "\xe4\xb8", "#", "_", "0", "A", "~", "&", ",", ":", "<",
}

var names = []string{
	"a", "b", "ab", "foo", "x", "é", "世", "a.b", ".a", "aa", "abc", "A", "0", "_", " ", "a b", "-",
	"[", "]", "^", "*", "?", "\\", "{", "}", "{2}", "(", ")", "$", "|", "+", "!", "a\nb", "\t", "\xff",
	"a\xff", "\xc3", "é\xff", "\ufffd", "\ufeff", "\u00a0", "#", "..a", "...", "é_", "zé", "~", "&",
}

// documented holds examples of Docker's documentation and of its tests.
var documented = [][]string{
	{"*/temp*"}, {"*/*/temp*"}, {"temp?"}, {"*.md", "!README.md"}, {"*.md", "!README*.md", "README-secret.md"},
	{"*.md", "README-secret.md", "!README*.md"}, {"**/*.go"}, {"**"}, {"**/"}, {"**/**"}, {"dir/**"},
	{"**/dir2/*"}, {"**/dir2/**"}, {"**file"}, {"**/file*txt"}, {"a**"}, {".*"}, {"abc.def"}, {"a(b)c/def"},
	{"a.|)$(}+{bc"}, {"dist/**/*.zip", "!dist/keep.zip"}, {"*", "!src", "src/secret"}, {"foo/**", "!foo/bar"},
	{"**", "!**/*.txt", "**/secret.txt"}, {"docs", "!docs/README.md"}, {"/foo"}, {"foo/"}, {"./foo"}, {"!"},
	{"[a"}, {"[]a"}, {"a\\"}, {"  "}, {"*.{js,ts}"}, {"a|b"}, {"*|b"}, {"[ab]{2}"},
}

var documentedPaths = []string{
	"temp", "tempa", "somedir/temp", "somedir/temporary.txt", "somedir/subdir/temporary.txt", "README.md",
	"README-secret.md", "notes.md", "docs/README.md", "docs/notes.md", "file", "dir/file", "dir/dir2/file",
	"dir/dir2/file.txt", "dist/a/b.zip", "dist/keep.zip", "src/main.go", "src/secret", "foo", "foo/bar",
	"foo/bar/baz", "a/secret.txt", "a/b.txt", ".git", "abc.def", "abcZdef", "a(b)c/def", "a.|)$(}+{bc", "xb",
	"a.js", "a.{js,ts}", "ab", "a",
}

func pick(random *rand.Rand, from []string) string { return from[random.IntN(len(from))] }

func piece(random *rand.Rand) string {
	if random.IntN(2) == 0 {
		return pieces[random.IntN(15)]
	}
	return pick(random, pieces)
}

func pattern(random *rand.Rand) string {
	var b strings.Builder
	if random.IntN(4) == 0 {
		b.WriteString("!")
	}
	for range 1 + random.IntN(5) {
		b.WriteString(piece(random))
	}
	return b.String()
}

func patternList(random *rand.Rand) []string {
	list := make([]string, 1+random.IntN(3))
	for i := range list {
		list[i] = pattern(random)
	}
	return list
}

// path returns a clean relative path, often one that a pattern may match.
func path(random *rand.Rand, list []string) string {
	var b strings.Builder
	if random.IntN(3) > 0 {
		replaced := strings.NewReplacer("**", pick(random, []string{"", "a", "a/b/", "a\nb/"}),
			"*", pick(random, []string{"", "a", "é", "x.y", "\xff"}), "?", pick(random, names),
			"[^a]", pick(random, names), "[", "", "]", "", "\\", "", "!", "", "{2}", "", "|", pick(random, []string{"|", "/"}))
		b.WriteString(replaced.Replace(pick(random, list)))
		if random.IntN(3) == 0 {
			b.WriteString("/" + pick(random, names))
		}
	} else {
		for i := range 1 + random.IntN(3) {
			if i > 0 {
				b.WriteString("/")
			}
			b.WriteString(pick(random, names))
			if random.IntN(3) == 0 {
				b.WriteString(pick(random, names))
			}
		}
	}
	path := strings.TrimPrefix(filepath.Clean("/"+b.String()), "/")
	if path == "" {
		return "a"
	}
	return path
}

func answer(matched bool, err error) byte {
	switch {
	case err != nil:
		return refused
	case matched:
		return yes
	default:
		return no
	}
}

// walk matches a path as a walk does: first its parents, then the path.
func walk(matcher *patternmatcher.PatternMatcher, path string) (bool, error) {
	var info patternmatcher.MatchInfo
	matched, err := false, error(nil)
	for i := range len(path) + 1 {
		if i < len(path) && path[i] != '/' {
			continue
		}
		matched, info, err = matcher.MatchesUsingParentResults(path[:i], info)
		if err != nil {
			return false, err
		}
	}
	return matched, nil
}

func writeList(out *output, list, paths []string) {
	out.list(list)
	_, err := patternmatcher.New(list)
	out.WriteByte(answer(true, err))
	if err != nil {
		return
	}
	out.number(len(paths))
	for _, path := range paths {
		// A matcher compiles a pattern once, so each question gets its own.
		parents, _ := patternmatcher.New(list)
		walked, _ := patternmatcher.New(list)
		out.text(path)
		out.WriteByte(answer(parents.MatchesOrParentMatches(path)))
		out.WriteByte(answer(walk(walked, path)))
	}
}

func writePatterns(out *output, random *rand.Rand) {
	out.number(lists + len(documented))
	for _, list := range documented {
		writeList(out, list, documentedPaths)
	}
	for range lists {
		list := patternList(random)
		paths := make([]string, 6)
		for i := range paths {
			paths[i] = path(random, list)
		}
		writeList(out, list, paths)
	}
}

var linePieces = []string{
	"a", "b", "/", "//", "./", "../", "..", "!", "! ", "#", " ", "\t", "\r", "\n", "\n", "\r\n", "\ufeff",
	"\u00a0", "\u2003", "*", "**", "[", "]", "\\", "\xff", "\x00", "é",
}

func writeIgnoreFiles(out *output, random *rand.Rand) {
	out.number(ignoreFiles)
	for range ignoreFiles {
		var content bytes.Buffer
		for range random.IntN(16) {
			content.WriteString(pick(random, linePieces))
		}
		out.text(content.String())
		patterns, err := ignorefile.ReadAll(&content)
		if err == nil {
			_, err = patternmatcher.New(patterns)
		}
		out.WriteByte(answer(true, err))
		if err == nil {
			out.list(patterns)
		}
	}
}
