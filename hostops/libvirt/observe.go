package libvirt

import (
	"context"
	"fmt"
	"slices"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"vcn/hostops"
)

// found is one domain of ours as libvirt shows it.
type found struct {
	dom     golibvirt.Domain
	seen    hostops.Domain
	active  bool // a process exists
	ioError bool // paused on an I/O error
}

// find looks for a node's domain: nil if there is none, ErrForeign if its name
// or UUID belongs to somebody else.
func (c *conn) find(reservation, node string) (*found, error) {
	dom, err := c.DomainLookupByUUID(golibvirt.UUID(domainUUID(reservation, node)))
	if is(err, golibvirt.ErrNoDomain) {
		dom, err = c.DomainLookupByName(domainName(reservation, node))
	}
	if is(err, golibvirt.ErrNoDomain) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("look up: %w", err)
	}
	have, err := c.observe(dom)
	if err != nil {
		return nil, err
	}
	if have != nil && (have.seen.Reservation != reservation || have.seen.Node != node) {
		have = nil
	}
	if have == nil {
		return nil, fmt.Errorf("domain %s: %w", dom.Name, hostops.ErrForeign)
	}
	return have, nil
}

// observe reads one domain; nil without an error means that it is not ours, but
// nobody's of us or of another cluster of hosts.
func (c *conn) observe(dom golibvirt.Domain) (*found, error) {
	state, reason, err := c.DomainGetState(dom, 0)
	if err != nil {
		return nil, fmt.Errorf("read state of %s: %w", dom.Name, err)
	}
	text, err := c.DomainGetXMLDesc(dom, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dom.Name, err)
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("read %s: %w", dom.Name, err)
	}
	if x.Metadata == nil {
		return nil, nil
	}
	m, ours, err := parseMeta(x.Metadata.XML)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dom.Name, err)
	}
	if !ours || m.Cluster != c.cluster {
		return nil, nil
	}
	f := &found{dom: dom}
	f.seen = hostops.Domain{Reservation: m.Reservation, Node: m.Node, Generation: m.Generation}
	f.seen.State, f.seen.Detail, f.active = readState(golibvirt.DomainState(state), reason)
	f.ioError = f.seen.State == hostops.DomainPaused && golibvirt.DomainPausedReason(reason) == golibvirt.DomainPausedIoerror
	if f.active {
		f.seen.Ready = f.seen.State == hostops.DomainRunning && agentConnected(&x)
		f.seen.Started = m.started()
	}
	return f, nil
}

// readState translates libvirt's pair of numbers.
func readState(state golibvirt.DomainState, reason int32) (s hostops.DomainState, detail string, active bool) {
	switch state {
	case golibvirt.DomainRunning, golibvirt.DomainBlocked:
		return hostops.DomainRunning, "", true
	case golibvirt.DomainShutdown:
		return hostops.DomainRunning, "powering off", true
	case golibvirt.DomainPaused:
		return hostops.DomainPaused, pausedWhy(golibvirt.DomainPausedReason(reason)), true
	case golibvirt.DomainPmsuspended:
		return hostops.DomainPaused, "suspended by the guest", true
	case golibvirt.DomainCrashed:
		return hostops.DomainCrashed, "the guest's kernel has crashed", true
	case golibvirt.DomainShutoff:
		if golibvirt.DomainShutoffReason(reason) == golibvirt.DomainShutoffCrashed {
			return hostops.DomainCrashed, "the hypervisor process ended unasked", false
		}
		return hostops.DomainOff, offWhy(golibvirt.DomainShutoffReason(reason)), false
	}
	return hostops.DomainOff, fmt.Sprintf("unknown state %d", state), false
}

func pausedWhy(r golibvirt.DomainPausedReason) string {
	switch r {
	case golibvirt.DomainPausedIoerror:
		return "stopped on an I/O error of its disk"
	case golibvirt.DomainPausedUser:
		return "paused by an operator"
	case golibvirt.DomainPausedStartingUp:
		return "starting"
	case golibvirt.DomainPausedShuttingDown:
		return "powering off"
	case golibvirt.DomainPausedCrashed:
		return "the guest's kernel has crashed"
	}
	return fmt.Sprintf("paused, libvirt's reason %d", r)
}

func offWhy(r golibvirt.DomainShutoffReason) string {
	switch r {
	case golibvirt.DomainShutoffShutdown:
		return "powered off by the guest"
	case golibvirt.DomainShutoffDestroyed:
		return "destroyed"
	case golibvirt.DomainShutoffFailed:
		return "could not be started"
	case golibvirt.DomainShutoffSaved:
		return "saved to disk"
	case golibvirt.DomainShutoffDaemon:
		return "ended while libvirtd was away"
	}
	return "never started since libvirtd started"
}

// List is hostops.Domains, ordered by reservation and node.
func (d *Driver) List(ctx context.Context) ([]hostops.Domain, error) {
	var out []hostops.Domain
	err := d.with(ctx, func(c *conn) error {
		all, _, err := c.ConnectListAllDomains(1, golibvirt.ConnectListDomainsActive|golibvirt.ConnectListDomainsInactive)
		if err != nil {
			return err
		}
		for _, dom := range all {
			f, err := c.observe(dom)
			if is(err, golibvirt.ErrNoDomain) {
				continue // undefined since
			} else if err != nil {
				return err
			}
			if f != nil {
				out = append(out, f.seen)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	slices.SortFunc(out, func(a, b hostops.Domain) int {
		if c := strings.Compare(a.Reservation, b.Reservation); c != 0 {
			return c
		}
		return strings.Compare(a.Node, b.Node)
	})
	return out, nil
}
