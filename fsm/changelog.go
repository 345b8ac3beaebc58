package fsm

import (
	"slices"
	"sync"
)

// changeLogMax bounds how many changes are remembered.
const changeLogMax = 1 << 16

// changeLog remembers on which hosts bookings changed, for those who follow the
// timelines. It is no part of the state: each peer has its own, and who asks for
// more than it remembers reads all timelines anew. An index in the store cost
// two writes for each host of each booking.
type changeLog struct {
	mu      sync.Mutex
	base    uint64 // changes after this index are all here
	entries []hostChange
}

type hostChange struct {
	index uint64
	host  string
}

// add appends changes, by index. It is called before they can be seen in a View.
func (l *changeLog) add(more []hostChange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, more...)
	if drop := len(l.entries) - changeLogMax; drop > 0 {
		drop += changeLogMax / 2
		l.base = l.entries[drop-1].index
		l.entries = slices.Clone(l.entries[drop:])
	}
}

// since returns the hosts that changed after an index, each once; false if that is
// not known any more.
func (l *changeLog) since(after uint64) ([]string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after < l.base {
		return nil, false
	}
	at, _ := slices.BinarySearchFunc(l.entries, after, func(c hostChange, index uint64) int {
		if c.index <= index {
			return -1
		}
		return 1
	})
	var hosts []string
	for _, c := range l.entries[at:] {
		hosts = append(hosts, c.host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts), true
}
