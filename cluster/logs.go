package cluster

import (
	"bytes"
	"context"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// raftLogger turns what raft and autopilot say into slog records.
func raftLogger(to *slog.Logger, name string) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: name, Level: hclog.Off, Output: io.Discard})
	l.RegisterSink(hclogSink{to.With("part", name)})
	return l
}

type hclogSink struct{ to *slog.Logger }

func (s hclogSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	at := slog.LevelDebug
	switch level {
	case hclog.Info:
		at = slog.LevelInfo
	case hclog.Warn, hclog.Error: // lost connections are errors to raft, and weather to us
		at = slog.LevelWarn
	}
	ctx := context.Background()
	if s.to.Enabled(ctx, at) {
		s.to.Log(ctx, at, msg, args...)
	}
}

// gossipLogger turns memberlist's lines ("[WARN] memberlist: …") into slog records.
func gossipLogger(to *slog.Logger) *log.Logger {
	return log.New(lineSink{to.With("part", "gossip")}, "", 0)
}

type lineSink struct{ to *slog.Logger }

func (s lineSink) Write(p []byte) (int, error) {
	line := string(bytes.TrimSpace(p))
	at := slog.LevelDebug
	if strings.HasPrefix(line, "[WARN]") || strings.HasPrefix(line, "[ERR]") {
		at = slog.LevelInfo
	}
	if _, rest, ok := strings.Cut(line, "memberlist: "); ok {
		line = rest
	}
	s.to.Log(context.Background(), at, line)
	return len(p), nil
}
