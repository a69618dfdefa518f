package main

import (
	"context"
	gofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tonistiigi/fsutil"
)

// Kinds of entries of a tree.
const (
	directory byte = iota
	unreadableDirectory
	file
	link
)

type entry struct {
	path   string
	kind   byte
	target string
}

var treeNames = []string{
	"a", "b", "c", "ab", "a.b", "foo", "a-b", "a!", "é", "世", "*", "[", "a b", "\\", "\xff", "..a", "^",
}

var treePatterns = []string{
	"a", "b", "c", "ab", "foo", "*", "**", "?", "a*", "*b", "[ab]", "[^a]", "**/b", "\\*", "\\[", "é", "*.b",
	".", "..", "a.b", "a b", "a?b", "[", "^", "a/**", "b/*", "|b", "{2}",
}

var targets = []string{"a", "b", "c", "..", "../..", "/", "/a", "/b/c", "../a", "../c/b", "a/b", ".", "./b", "nowhere", "/../a", "foo", "../../../b"}

// unreadableFS makes reading some directories fail, as they do for a user without permission.
type unreadableFS struct {
	fsutil.FS
	unreadable map[string]bool
}

func (u unreadableFS) Walk(ctx context.Context, target string, fn gofs.WalkDirFunc) error {
	return u.FS.Walk(ctx, target, func(path string, d gofs.DirEntry, err error) error {
		if result := fn(path, d, err); result != nil || err != nil || !u.unreadable[path] {
			return result
		}
		denied := &gofs.PathError{Op: "open", Path: path, Err: syscall.EACCES}
		if result := fn(path, d, denied); result != nil {
			return result
		}
		return gofs.SkipDir
	})
}

func tree(random *rand.Rand) []entry {
	directories := []string{""}
	seen := map[string]bool{}
	var entries []entry
	for range random.IntN(14) {
		path := filepath.Join(pick(random, directories), pick(random, treeNames[:2+random.IntN(len(treeNames)-1)]))
		if seen[path] {
			continue
		}
		seen[path] = true
		switch n := random.IntN(20); {
		case n < 8:
			entries = append(entries, entry{path: path, kind: directory})
			directories = append(directories, path)
		case n < 9:
			entries = append(entries, entry{path: path, kind: unreadableDirectory})
			directories = append(directories, path)
		case n < 15:
			entries = append(entries, entry{path: path, kind: file})
		default:
			entries = append(entries, entry{path: path, kind: link, target: pick(random, targets)})
		}
	}
	return entries
}

func treeList(random *rand.Rand, entries []entry, exclusions bool) []string {
	if random.IntN(2) == 0 {
		return nil
	}
	list := make([]string, 1+random.IntN(3))
	for i := range list {
		var parts []string
		if len(entries) > 0 && random.IntN(2) == 0 {
			parts = strings.Split(entries[random.IntN(len(entries))].path, "/")
			if random.IntN(2) == 0 {
				parts[random.IntN(len(parts))] = pick(random, treePatterns)
			}
		} else {
			for range 1 + random.IntN(3) {
				parts = append(parts, pick(random, treePatterns))
			}
		}
		if random.IntN(6) == 0 {
			parts = append([]string{""}, parts...)
		}
		list[i] = strings.Join(parts, "/")
		if exclusions && random.IntN(3) == 0 {
			list[i] = "!" + list[i]
		}
	}
	return list
}

func create(root string, entries []entry) error {
	for _, e := range entries {
		path := filepath.Join(root, e.path)
		var err error
		switch e.kind {
		case file:
			err = os.WriteFile(path, nil, 0o600)
		case link:
			err = os.Symlink(e.target, path)
		default:
			err = os.Mkdir(path, 0o700)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func writeTrees(out *output, random *rand.Rand) error {
	parent, err := os.MkdirTemp("", "patterns")
	if err != nil {
		return err
	}
	defer os.RemoveAll(parent)
	// Go follows a path that starts with "..", which must not meet other files.
	above := filepath.Join(parent, strings.Repeat("d/", 16))
	if err := os.MkdirAll(above, 0o700); err != nil {
		return err
	}
	root := filepath.Join(above, "context")
	out.number(trees)
	for range trees {
		entries := tree(random)
		if err := os.Mkdir(root, 0o700); err != nil {
			return err
		}
		if err := create(root, entries); err != nil {
			return err
		}
		if err := writeTree(out, random, root, entries); err != nil {
			return err
		}
		if err := os.RemoveAll(root); err != nil {
			return err
		}
	}
	return nil
}

func writeTree(out *output, random *rand.Rand, root string, entries []entry) error {
	out.number(len(entries))
	unreadable := map[string]bool{}
	for _, e := range entries {
		out.text(e.path)
		out.WriteByte(e.kind)
		out.text(e.target)
		unreadable[e.path] = e.kind == unreadableDirectory
	}
	readable, err := fsutil.NewFS(root)
	if err != nil {
		return err
	}
	fs := unreadableFS{readable, unreadable}
	options := &fsutil.FilterOpt{
		IncludePatterns: treeList(random, entries, random.IntN(4) == 0),
		ExcludePatterns: treeList(random, entries, true),
		FollowPaths:     treeList(random, entries, false),
	}
	out.list(options.IncludePatterns)
	out.list(options.ExcludePatterns)
	out.list(options.FollowPaths)

	followed, err := fsutil.FollowLinks(fs, options.FollowPaths)
	out.WriteByte(answer(followed != nil, err))
	out.list(followed)

	var walked []string
	filtered, err := fsutil.NewFilterFS(fs, options)
	if err == nil {
		err = filtered.Walk(context.Background(), "/", func(path string, _ gofs.DirEntry, err error) error {
			walked = append(walked, path)
			return err
		})
	}
	out.WriteByte(answer(true, err))
	if err == nil {
		out.list(walked)
	}
	return nil
}
