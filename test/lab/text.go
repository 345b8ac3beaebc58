package lab

import (
	"bytes"
	"io"
	"sync"
)

// tailWriter keeps the end of what is written.
type tailWriter struct{ b []byte }

func (t *tailWriter) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-outputTail):]
	return len(p), nil
}

func (t *tailWriter) String() string { return string(bytes.TrimSpace(t.b)) }

// lineWriter says every line.
func lineWriter(say func(string)) io.Writer { return &lines{say: say} }

type lines struct {
	say  func(string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.say(string(line))
		l.rest = rest
	}
}

// syncBuffer is written from several places.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
