// Command patterns writes the answers of moby/patternmatcher and tonistiigi/fsutil to random
// questions. tests/patterns compares src/ignore with them.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"log"
	"math/rand/v2"
	"os"
)

const (
	seed        = 20261126
	lists       = 26_000
	ignoreFiles = 5_000
	trees       = 8_000
)

// Answers to a question.
const (
	no byte = iota
	yes
	refused
)

// output collects records. Numbers are unsigned varints; strings and lists carry their length.
type output struct{ bytes.Buffer }

func (o *output) number(n int) {
	o.Write(binary.AppendUvarint(nil, uint64(n)))
}

func (o *output) text(text string) {
	o.number(len(text))
	o.WriteString(text)
}

func (o *output) list(texts []string) {
	o.number(len(texts))
	for _, text := range texts {
		o.text(text)
	}
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: patterns OUTPUT")
	}
	random := rand.New(rand.NewPCG(seed, seed))
	out := &output{}
	writePatterns(out, random)
	writeIgnoreFiles(out, random)
	if err := writeTrees(out, random); err != nil {
		log.Fatal(err)
	}

	var compressed bytes.Buffer
	writer, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	check(err)
	_, err = writer.Write(out.Bytes())
	check(err)
	check(writer.Close())
	check(os.WriteFile(os.Args[1], compressed.Bytes(), 0o644))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
