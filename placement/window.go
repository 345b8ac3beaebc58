package placement

import "math"

// change is what happens to one condition's sum as the slot's start reaches an
// instant.
type change struct {
	at    int64
	delta int32 // 0: only an end of something booked
	cond  int32
}

// queue is a monotone queue: the largest amount of one resource in a sliding
// window of steps is at its head.
type queue struct {
	steps []int32
	held  []int64
	head  int
}

func (q *queue) reset() { q.steps, q.held, q.head = q.steps[:0], q.held[:0], 0 }

func (q *queue) push(step int, n int64) {
	last := len(q.held)
	for last > q.head && q.held[last-1] <= n {
		last--
	}
	q.steps, q.held = append(q.steps[:last], int32(step)), append(q.held[:last], n)
}

// drop forgets steps before first.
func (q *queue) drop(first int) {
	for q.head < len(q.steps) && int(q.steps[q.head]) < first {
		q.head++
	}
}

func (q *queue) most() int64 {
	if q.head < len(q.held) {
		return max(q.held[q.head], 0)
	}
	return 0
}

// walker finds how conditions change as a slot of fixed length is moved along.
type walker struct {
	inv    *Inventory
	conds  *conditions
	length int64

	active [seats][]int // conditions that are followed
	about  [seats][]int // resources they depend on
	sums   []int64      // of the followed conditions
	queues [resources]queue
	parts  []int64 // scratch: of the host at hand, by condition
	out    []change
}

// follow chooses the conditions that are worth following: all but those that are
// met whatever the start in (after, until] is. The others' sums are set to what
// is wanted.
func (w *walker) follow(cursors []int32, after, until int64) {
	low := w.sums
	clear(low)
	for h := range w.inv.hosts {
		seat := w.conds.seat(w.inv, h)
		if of := w.conds.bySeat[seat]; len(of) > 0 {
			free := w.inv.caps[h].minus(w.inv.lines[h].peakFrom(int(cursors[h]), until+w.length))
			for _, i := range of {
				low[i] += w.conds.part(i, h, free)
			}
		}
	}
	for s := range w.active {
		w.active[s], w.about[s] = w.active[s][:0], w.about[s][:0]
		var of [resources]bool
		for _, i := range w.conds.bySeat[s] {
			if low[i] < w.conds.list[i].want {
				w.active[s] = append(w.active[s], i)
				for _, x := range w.conds.list[i].about() {
					of[x] = true
				}
			}
		}
		for x, is := range of {
			if is {
				w.about[s] = append(w.about[s], x)
			}
		}
	}
	for i := range low {
		if low[i] < w.conds.list[i].want {
			low[i] = 0 // walk sums it up
		} else {
			low[i] = w.conds.list[i].want
		}
	}
}

// about is what all conditions of a host may depend on.
func (s seat) about() []int {
	switch node, vol := role(s)&(roleGateway|roleCompute) != 0, role(s)&roleStorage != 0; {
	case node && vol:
		return []int{cpus, memory, disk}
	case node:
		return []int{cpus, memory}
	case vol:
		return []int{disk}
	case s&seatPool != 0:
		return []int{clusters}
	}
	return nil
}

// walk appends the changes of one host for starts in (after, until]. cursor is a
// step that is not after that time, -1 if there is none; it returns a later such step. What
// the host adds to the sums at after is added. Each step enters the window once, 1 ns after the start at
// which the slot ends with it, and leaves it once, where the step that follows begins.
func (w *walker) walk(host, cursor int, after, until int64) int {
	seat := w.conds.seat(w.inv, host)
	about, conds := w.about[seat], w.active[seat]
	if len(conds) == 0 {
		return cursor
	}
	steps := w.inv.lines[host].steps
	for cursor+1 < len(steps) && steps[cursor+1].At <= after {
		cursor++
	}
	left, right := cursor, max(cursor, 0)
	for _, x := range about {
		w.queues[x].reset()
	}
	for ; right < len(steps) && steps[right].At < after+w.length; right++ {
		w.enter(about, right, &steps[right])
	}
	peak := w.peak(about)
	free := w.inv.caps[host].minus(peak)
	for _, i := range conds {
		w.parts[i] = w.conds.part(i, host, free)
		w.sums[i] += w.parts[i]
	}
	for {
		in, out := int64(math.MaxInt64), int64(math.MaxInt64)
		if right < len(steps) {
			in = steps[right].At - w.length + 1
		}
		if left+1 < len(steps) {
			out = steps[left+1].At
		}
		at := min(in, out)
		if at > until || at == math.MaxInt64 {
			return left
		}
		if at == in {
			w.enter(about, right, &steps[right])
			right++
		}
		if at == out {
			left++
			for _, x := range about {
				w.queues[x].drop(left)
			}
		}
		if now := w.peak(about); now != peak {
			peak = now
			w.report(conds, host, at, w.inv.caps[host].minus(peak))
		}
	}
}

func (w *walker) enter(about []int, i int, s *Step) {
	for _, x := range about {
		w.queues[x].push(i, s.amount(x))
	}
}

func (w *walker) peak(about []int) amounts {
	var p amounts
	for _, x := range about {
		p[x] = w.queues[x].most()
	}
	return p
}

func (w *walker) report(conds []int, host int, at int64, free amounts) {
	for _, i := range conds {
		if n := w.conds.part(i, host, free); n != w.parts[i] {
			w.out = append(w.out, change{at, int32(n - w.parts[i]), int32(i)})
			w.parts[i] = n
		}
	}
}

// marks appends to out, as changes of no condition, the instants in (after, until]
// at which something booked ends on a host that has conditions, where wanted.
func (w *walker) marks(after, until int64, wanted func(at int64) bool) {
	for h := range w.inv.hosts {
		seat := w.conds.seat(w.inv, h)
		if len(w.conds.bySeat[seat]) == 0 {
			continue
		}
		line, about := &w.inv.lines[h], seat.about()
		for i := line.find(after) + 1; i < len(line.steps) && line.steps[i].At <= until; i++ {
			if wanted(line.steps[i].At) && falls(line.steps, i, about) {
				w.out = append(w.out, change{at: line.steps[i].At, cond: -1})
			}
		}
	}
}

// falls reports whether less of a resource is booked from step i on than just
// before.
func falls(steps []Step, i int, about []int) bool {
	for _, x := range about {
		before := int64(0)
		if i > 0 {
			before = steps[i-1].amount(x)
		}
		if steps[i].amount(x) < before {
			return true
		}
	}
	return false
}
