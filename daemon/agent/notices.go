package agent

import (
	"context"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"

	"vcn/fsm"
)

const (
	// noticesFile, among a frontend's files, holds the digest of the notices that
	// it shows. It is absent until that is known.
	noticesFile = "notices"
	noticesNone = "none"
	// noticesMax and noticeBytesMax bound what users are told at once.
	noticesMax     = 64
	noticeBytesMax = 4096
)

var reNoticeID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// diffNotices has the frontends here show their cluster's notices.
func diffNotices(in diffInput) []action {
	var acts []action
	for _, n := range in.assign.Nodes {
		if !n.Frontend || !in.answers(n) {
			continue
		}
		notices := in.assign.Clusters[n.Reservation].Notices
		want := noticesNone
		if len(notices) > 0 {
			want = digest(notices)
		}
		have := in.seen.notices[nodeKey(n.Reservation, n.Node)]
		if have == want {
			continue
		}
		act := action{key: "notices/" + n.Reservation, what: "show notices " + want, pool: askSteps}
		if tidy := in.tidyAt(n); len(notices) == 0 && have == "" && tidy.After(in.now) {
			act.due = tidy
		} else {
			act.run = showNotices(n, notices, have, want)
		}
		acts = append(acts, act)
	}
	return acts
}

func showNotices(n fsm.NodeWork, notices []fsm.NoticeWork, have, want string) runFunc {
	return func(ctx context.Context, a *Agent, _ func(string)) error {
		_, err := a.inGuest(ctx, n, noticeLines(notices), noticesProgram, "sync")
		if err != nil && !(have == "" && want == noticesNone && absent(err)) { // an older release's node shows none
			return fmt.Errorf("show notices on %s: %w", n.Node, err)
		}
		dir, _ := a.nodeFiles(n.Reservation, n.Node)
		return writeWord(dir, noticesFile, want)
	}
}

// noticeLines is what the guest's program reads: ID TEXT-IN-BASE64.
func noticeLines(notices []fsm.NoticeWork) []byte {
	var b strings.Builder
	for _, w := range notices[:min(len(notices), noticesMax)] {
		id := w.ID
		if !reNoticeID.MatchString(id) {
			id = digest(id)
		}
		text := strings.Map(func(r rune) rune {
			if r < ' ' && r != '\n' || r == 0x7f {
				return ' ' // a terminal must not be told anything but text
			}
			return r
		}, strings.ToValidUTF8(w.Text[:min(len(w.Text), noticeBytesMax)], ""))
		fmt.Fprintf(&b, "%s %s\n", id, base64.StdEncoding.EncodeToString([]byte(text)))
	}
	return []byte(b.String())
}
