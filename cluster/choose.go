package cluster

import (
	"cmp"
	"slices"
)

// candidate is a host as the choice of peers sees it.
type candidate struct {
	id     string
	domain string
	leader bool
	voter  bool // votes now
	peer   bool // in the Raft configuration now
	ready  bool // may vote: healthy and stable for long enough
	gone   bool // not to be counted on: out, or dead for longer than DeadAfter
	out    bool // on purpose: left, or not to be a peer; implies gone
}

// spread picks up to n of the candidates so that as few as possible share a
// failure domain: it takes, again and again, one from the domain used least,
// preferring the leader, then who votes, then who is a peer, then the lower id
// (so that the choice is stable).
func spread(from []candidate, n int) []string {
	from = slices.Clone(from)
	used := map[string]int{}
	var out []string
	for len(out) < n && len(from) > 0 {
		best := slices.MinFunc(from, func(a, b candidate) int {
			return cmp.Or(
				-cmpBool(a.leader, b.leader),
				cmp.Compare(used[a.domain], used[b.domain]),
				-cmpBool(a.voter, b.voter),
				-cmpBool(a.peer, b.peer),
				cmp.Compare(a.id, b.id))
		})
		out = append(out, best.id)
		used[best.domain]++
		from = slices.DeleteFunc(from, func(c candidate) bool { return c.id == best.id })
	}
	return out
}

func cmpBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// chooseVoters says who should begin and who should cease to vote.
//
//   - The number of voters is odd and at most votersMax, so two hosts make one
//     voter; but nobody who votes is demoted only to make it odd.
//   - The leader stays.
//   - Who is out on purpose is demoted.
//   - Who is dead is demoted when a replacement votes, or when that lets the
//     group lose one more host than it can now. Else it stays: it may come back.
func chooseVoters(from []candidate, votersMax int) (promote, demote []string) {
	var fit []candidate
	voters, live := 0, 0
	for _, c := range from {
		if c.voter {
			voters++
		}
		switch {
		case c.voter && (!c.gone || c.leader):
			live++
			fit = append(fit, c)
		case !c.voter && c.ready && !c.gone:
			fit = append(fit, c)
		}
	}
	n := min(votersMax, len(fit))
	if n%2 == 0 {
		n--
	}
	n = max(n, min(live, votersMax))
	chosen := spread(fit, n)

	dropDead := len(chosen) >= min(votersMax, voters) || quorum(len(chosen)) < quorum(voters)
	for _, c := range from {
		in := slices.Contains(chosen, c.id)
		switch {
		case in && !c.voter:
			promote = append(promote, c.id)
		case in || !c.voter || c.leader:
		case !c.gone, c.out, dropDead: // too many, or another spreads better; on purpose; dead
			demote = append(demote, c.id)
		}
	}
	slices.Sort(promote)
	slices.Sort(demote)
	return promote, demote
}

func quorum(voters int) int { return voters/2 + 1 }

// choosePeers says who should be in the Raft group at all, voters and spares.
func choosePeers(from []candidate, votersMax, spares int) []string {
	fit := slices.DeleteFunc(slices.Clone(from), func(c candidate) bool { return c.gone && !c.leader })
	return spread(fit, votersMax+spares)
}
