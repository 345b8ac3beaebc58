package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

func entries(from, to uint64) (out []*raft.Log) {
	for i := from; i <= to; i++ {
		out = append(out, &raft.Log{Index: i, Type: raft.LogCommand, Data: fmt.Append(nil, i)})
	}
	return out
}

func TestStateMachineOutlivesRaftInstances(t *testing.T) {
	inner := &ledger{}
	f := newOnceFSM(inner)
	f.begin()
	f.ApplyBatch(entries(1, 5))
	if _, err := f.Snapshot(); err != nil {
		t.Fatalf("snapshot of a first instance: %v", err)
	}
	f.begin() // a second instance replays from the beginning
	f.ApplyBatch(entries(1, 3))
	if _, err := f.Snapshot(); !errors.Is(err, errCatchingUp) {
		t.Errorf("snapshot while behind: %v", err)
	}
	if out := f.ApplyBatch(entries(4, 7)); len(out) != 4 || out[1] != nil || out[2] != 6 {
		t.Errorf("results of a batch half seen: %v", out)
	}
	if _, err := f.Snapshot(); err != nil {
		t.Errorf("snapshot when caught up: %v", err)
	}
	if got := inner.all(); len(got) != 7 || inner.fault != "" {
		t.Errorf("applied %v, fault %q", got, inner.fault)
	}
	f.begin() // a third gets an older snapshot instead, and what follows it
	if err := f.Restore(io.NopCloser(strings.NewReader(`[{"Index":1,"Data":"1"},{"Index":2,"Data":"2"}]`))); err != nil {
		t.Fatal(err)
	}
	f.ApplyBatch(entries(3, 8))
	if got := inner.all(); len(got) != 8 || inner.fault != "" {
		t.Errorf("after restore: %v, fault %q", got, inner.fault)
	}
}

func TestChunksComeTogetherInAnyOrder(t *testing.T) {
	packed := bytes.Repeat([]byte("0123456789"), 350)
	chunks := split("h1", 7, packed)
	if len(chunks) != 4 {
		t.Fatalf("%d chunks", len(chunks))
	}
	p := &partial{}
	old := split("h1", 6, packed)
	p.add(old[0])
	for k, i := range []int{3, 0, 0, 2, 1} {
		c, err := decodeChunk(chunks[i].encode())
		if err != nil {
			t.Fatal(err)
		}
		fresh, whole := p.add(c)
		if fresh != (k != 2) || (whole != nil) != (k == 4) {
			t.Errorf("step %d: fresh %v, complete %v", k, fresh, whole != nil)
		}
		if whole != nil && !bytes.Equal(whole, packed) {
			t.Error("put together wrongly")
		}
	}
	if fresh, _ := p.add(old[1]); fresh {
		t.Error("an older advert's chunk counted")
	}
}

func FuzzGossipInput(f *testing.F) {
	a := Advert{HostID: "h1", Seq: 3}
	packed, err := a.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(split("h1", 3, packed)[0].encode())
	f.Add(packed)
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &partial{}
		if c, err := decodeChunk(b); err == nil {
			if !bytes.Equal(c.encode(), b) {
				t.Errorf("chunk read and written differs")
			}
			if _, whole := p.add(c); whole != nil {
				decodeAdvert(whole)
			}
		}
		if a, err := decodeAdvert(b); err == nil && !idPattern.MatchString(a.HostID) {
			t.Errorf("took host id %q", a.HostID)
		}
	})
}
