package fake

import (
	"context"
	"fmt"
	"sync"
	"time"

	"vcn/hostops"
)

const (
	defaultTotalBytes = 1 << 40
	defaultReadyAfter = 2 * time.Second
	callsKept         = 4096
)

// Config shapes a fake host. The zero value is a quick and healthy one.
type Config struct {
	// Name is the host's name; it goes into paths and initiator names.
	Name string
	// ReadyAfter is from a guest's start to its readiness; 0 means 2 s,
	// negative means never.
	ReadyAfter time.Duration
	// StopAfter is how long a guest takes to power off when asked; negative
	// means that it ignores the request.
	StopAfter time.Duration
	// BuildTakes is how long an image build takes.
	BuildTakes time.Duration
	// TotalBytes is the size of the volume store; 0 means 1 TiB.
	TotalBytes int64
	// ImageBytes is the size of a built root disk; 0 means 1 GiB.
	ImageBytes int64
	// NetworkDriver is what Networks().Driver says; empty means vxlan.
	NetworkDriver string
	// Fabric joins several fake hosts, so that a guest's iSCSI disk is checked
	// against the exports of the others. Nil: any disk is taken as reachable.
	Fabric *Fabric
}

// Host is one fake physical host. Its parts share its state. Close ends the
// guests' timers.
type Host struct {
	cfg Config

	mu       sync.Mutex
	rules    []*rule
	calls    []string
	domains  map[string]*domain
	guests   map[string]*guest       // by node: what is on its disk
	programs map[string]GuestHandler // by path
	networks map[int]*network
	volumes  map[string]hostops.Volume
	exports  map[string]*export
	images   map[string]*image
	attached map[string]*attachment // by target
	opened   map[string]int         // devices that somebody else has open
	devices  int                    // how many have been attached
	watchers map[chan struct{}]struct{}
	closed   bool
	// storageCut: no target can be reached from here.
	storageCut bool
	done       chan struct{} // closed with the host
	building   chan struct{} // holds one token: one build at a time
}

// New makes an empty host.
func New(c Config) *Host {
	if c.Name == "" {
		c.Name = "fake"
	}
	if c.ReadyAfter == 0 {
		c.ReadyAfter = defaultReadyAfter
	}
	if c.TotalBytes == 0 {
		c.TotalBytes = defaultTotalBytes
	}
	if c.ImageBytes == 0 {
		c.ImageBytes = 1 << 30
	}
	if c.NetworkDriver == "" {
		c.NetworkDriver = "vxlan"
	}
	h := &Host{
		cfg:      c,
		domains:  map[string]*domain{},
		guests:   map[string]*guest{},
		networks: map[int]*network{},
		volumes:  map[string]hostops.Volume{},
		exports:  map[string]*export{},
		images:   map[string]*image{},
		watchers: map[chan struct{}]struct{}{},
		building: make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
	h.programs = h.builtinPrograms()
	c.Fabric.join(h)
	return h
}

// Domains, Networks, Volumes, Targets and Images are the host's drivers. They
// share the host's state, as drivers do that are made anew by a daemon that
// has restarted.
func (h *Host) Domains() hostops.Domains {
	return domains{h: h, done: make(chan struct{}), once: new(sync.Once)}
}
func (h *Host) Networks() hostops.Networks { return networks{h} }
func (h *Host) Volumes() hostops.Volumes   { return volumes{h} }
func (h *Host) Targets() hostops.Targets   { return targets{h} }
func (h *Host) Images() hostops.Images     { return images{h} }

// Facts returns what a host of this kind offers.
func (h *Host) Facts() hostops.Facts {
	return hostops.Facts{CPUs: 64, MemoryBytes: 256 << 30, Accel: "tcg", AccelWhy: "fake host", Kernel: "fake", QEMU: "fake"}
}

// rule is one fault or delay.
type rule struct {
	call  string // "Domains.Ensure", "Domains.*" or "*"
	left  int    // how often it still applies; negative: for ever
	delay time.Duration
	hang  bool
	err   error
}

// Fail lets the next n calls of that name return err and change nothing; n < 0
// means until Heal. A name is "Part.Method" as in hostops ("Volumes.Ensure"),
// "Part.*" or "*".
func (h *Host) Fail(call string, n int, err error) { h.add(&rule{call: call, left: n, err: err}) }

// Delay lets the next n calls of that name take d before they start.
func (h *Host) Delay(call string, n int, d time.Duration) {
	h.add(&rule{call: call, left: n, delay: d})
}

// Hang lets the next n calls of that name wait until their context ends.
func (h *Host) Hang(call string, n int) { h.add(&rule{call: call, left: n, hang: true}) }

// Heal removes every fault and delay of that name; "*" removes all.
func (h *Host) Heal(call string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.rules[:0]
	for _, r := range h.rules {
		if call != "*" && r.call != call {
			kept = append(kept, r)
		}
	}
	h.rules = kept
}

func (h *Host) add(r *rule) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rules = append(h.rules, r)
}

// Calls returns the last calls (at most 4096), oldest first, as "Part.Method
// argument".
func (h *Host) Calls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.calls...)
}

// enter records a call and applies the faults that match it. A delay and a
// failure may both apply to one call.
func (h *Host) enter(ctx context.Context, part, method, arg string) error {
	name := part + "." + method
	h.mu.Lock()
	h.calls = append(h.calls, name+" "+arg)
	if len(h.calls) > callsKept {
		h.calls = h.calls[len(h.calls)-callsKept:]
	}
	var delay time.Duration
	var fail error
	hang := false
	for _, r := range h.rules {
		if r.left == 0 || r.call != "*" && r.call != part+".*" && r.call != name {
			continue
		}
		if fail != nil || hang {
			break
		}
		r.left--
		delay, hang, fail = delay+r.delay, r.hang, r.err
	}
	h.mu.Unlock()
	if hang {
		<-ctx.Done()
		return fmt.Errorf("%s: %w", name, ctx.Err())
	}
	if err := sleep(ctx, delay); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if fail != nil {
		return fmt.Errorf("%s: %w", name, fail)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// changed tells the watchers; h.mu is held.
func (h *Host) changed() {
	for w := range h.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// Close ends every timer and watch of the host and its place in the fabric.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	close(h.done)
	for _, d := range h.domains {
		d.halt()
		if d.end != nil {
			d.end()
		}
	}
	h.cfg.Fabric.leave(h)
	return nil
}
