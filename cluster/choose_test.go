package cluster

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// parse reads "id/domain:flags": L leads and votes, v votes, p non-voting peer,
// r ready, d dead for long, o out on purpose.
func parseCandidates(s string) []candidate {
	var out []candidate
	for _, f := range strings.Fields(s) {
		name, flags, _ := strings.Cut(f, ":")
		id, domain, ok := strings.Cut(name, "/")
		if !ok {
			domain = id
		}
		has := func(r string) bool { return strings.Contains(flags, r) }
		out = append(out, candidate{
			id: id, domain: domain, leader: has("L"), voter: has("v") || has("L"),
			peer: has("v") || has("L") || has("p"), ready: has("r"), gone: has("d") || has("o"), out: has("o"),
		})
	}
	return out
}

func TestChooseVoters(t *testing.T) {
	for _, c := range []struct {
		name, hosts     string
		max             int
		promote, demote string
	}{
		{"one host alone", "a:L", 3, "", ""},
		{"two hosts make one voter", "a:L b:pr", 3, "", ""},
		{"three make three", "a:L b:pr c:pr", 3, "b c", ""},
		{"four make three, with max five", "a:L b:pr c:pr d:pr", 5, "b c", ""},
		{"nobody unstable", "a:L b:p c:p", 3, "", ""},
		{"two who vote go on", "a:L b:v", 3, "", ""},
		{"a dead voter without replacement stays", "a:L b:v c:vd", 3, "", ""},
		{"a dead voter is replaced", "a:L b:v c:vd d:pr", 3, "d", "c"},
		{"an unstable spare replaces nobody", "a:L b:v c:vd d:p", 3, "", ""},
		{"one dead of five stays", "a:L b:v c:v d:v e:vd", 5, "", ""},
		{"two dead of five go, three bear more", "a:L b:v c:v d:vd e:vd", 5, "", "d e"},
		{"who is out goes at once", "a:L b:v c:vo", 3, "", "c"},
		{"who is out is replaced", "a:L b:v c:vo d:pr", 3, "d", "c"},
		{"the leader stays even when out", "a:Lo b:v c:v", 3, "", ""},
		{"fewer wanted than vote", "a:L b:v c:v d:v e:v", 3, "", "d e"},
		{"spread over domains", "a/x:L b/x:v c/x:v d/y:pr e/z:pr", 3, "d e", "b c"},
		{"no swap without gain", "a/x:L b/y:v c/z:v d/x:pr", 3, "", ""},
		{"the leader's domain is not left", "b/x:L a/x:pr c/y:pr", 3, "a c", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			promote, demote := chooseVoters(parseCandidates(c.hosts), c.max)
			if got := strings.Join(promote, " "); got != c.promote {
				t.Errorf("promote %q, want %q", got, c.promote)
			}
			if got := strings.Join(demote, " "); got != c.demote {
				t.Errorf("demote %q, want %q", got, c.demote)
			}
		})
	}
}

// Whatever the hosts, a round leaves the leader voting, never fewer live voters
// than bear what is borne now, and a second round changes nothing.
func TestChooseVotersSettles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "hosts")
		max := rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "max")
		all := make([]candidate, n)
		for i := range all {
			voter := i == 0 || rapid.Bool().Draw(t, "voter")
			out := i > 0 && rapid.IntRange(0, 5).Draw(t, "out") == 0
			all[i] = candidate{
				id: string(rune('a' + i)), domain: rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "domain"),
				leader: i == 0, voter: voter, peer: true, ready: rapid.Bool().Draw(t, "ready"),
				out: out, gone: out || i > 0 && rapid.IntRange(0, 3).Draw(t, "dead") == 0,
			}
		}
		tolerance := func() int {
			voters, live := 0, 0
			for _, c := range all {
				if c.voter {
					voters++
					if !c.gone {
						live++
					}
				}
			}
			return min(live, max) - quorum(min(voters, max))
		}
		before := tolerance()
		promote, demote := chooseVoters(all, max)
		for i, c := range all {
			if slices.Contains(promote, c.id) {
				if c.voter || c.gone || !c.ready {
					t.Fatalf("promoted %+v", c)
				}
				all[i].voter = true
			}
			if slices.Contains(demote, c.id) {
				if !c.voter || c.leader {
					t.Fatalf("demoted %+v", c)
				}
				all[i].voter = false
			}
		}
		if after := tolerance(); after < before && len(demote) > 0 {
			t.Fatalf("tolerance fell from %d to %d: promote %v demote %v of %+v", before, after, promote, demote, all)
		}
		if p, d := chooseVoters(all, max); len(p)+len(d) > 0 {
			t.Fatalf("a second round promotes %v and demotes %v", p, d)
		}
	})
}

func TestChoosePeersPrefersWhoIsInAndSpreads(t *testing.T) {
	got := choosePeers(parseCandidates("a/x:L b/x:v c/x:p d/y: e/z:d f/y:"), 3, 1)
	if want := []string{"a", "d", "b", "f"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
