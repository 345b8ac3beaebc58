package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A guard is a small program of the kernel's packet classifier (cls_bpf on a
// clsact queue) that drops frames on one link, in both directions. It is there
// before the link gets its first frame, whatever is plugged into the bridge
// later.
type guard struct {
	name    string
	program asm.Instructions
	// tag is the kernel's digest of the program, known once it was loaded.
	tag string
}

const (
	// guardPriority is the first that a filter can have: nothing decides before.
	guardPriority = 1
	guardVersion  = "1"
	// Results of a classifier with direct action, linux/pkt_cls.h.
	actUnspec = -1
	actShot   = 2
	// Fields of struct __sk_buff, linux/bpf.h.
	skbProtocol    = 16
	skbVLANPresent = 20
)

// tagProtocols are the EtherTypes that begin a VLAN tag: 802.1Q, 802.1ad, and
// what switches took for the outer tag before there was 802.1ad.
var tagProtocols = []uint16{0x8100, 0x88a8, 0x9100, 0x9200}

// newTagGuard is for ports. It drops what has a tag of any kind, in the frame
// or beside it, so that the only tag on the underlay is ours; and what is meant
// for switches, not for guests: 01:80:c2:00:00:xx (IEEE 802.1Q table 8-1 and
// 10-1) and Cisco's 01:00:0c:cc:cc:cc and :cd. A guest that sent those
// could make a switch close the host's port.
func newTagGuard() *guard {
	const ieee, pass, drop = "ieee", "pass", "drop"
	p := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1), // what LoadAbs reads from
		asm.LoadMem(asm.R2, asm.R6, skbVLANPresent, asm.Word),
		asm.JNE.Imm(asm.R2, 0, drop),
		asm.LoadMem(asm.R2, asm.R6, skbProtocol, asm.Word),
	}
	for _, e := range tagProtocols {
		// The field is in network order, as if it were a number of this machine.
		p = append(p, asm.JEq.Imm(asm.R2, int32(binary.NativeEndian.Uint16([]byte{byte(e >> 8), byte(e)})), drop))
	}
	// No jump goes back: the kernel's check of programs is simpler that way.
	p = append(p,
		asm.LoadAbs(0, asm.Word), // the first four bytes of the destination
		asm.JEq.Imm(asm.R0, 0x0180c200, ieee),
		asm.JNE.Imm(asm.R0, 0x01000ccc, pass),
		asm.LoadAbs(4, asm.Half),
		asm.And.Imm(asm.R0, 0xfffe),
		asm.JEq.Imm(asm.R0, 0xcccc, drop),
		asm.Mov.Imm(asm.R0, actUnspec),
		asm.Return(),
		asm.LoadAbs(4, asm.Half).WithSymbol(ieee),
		asm.And.Imm(asm.R0, 0xff00),
		asm.JEq.Imm(asm.R0, 0, drop),
		asm.Mov.Imm(asm.R0, actUnspec).WithSymbol(pass),
		asm.Return(),
		asm.Mov.Imm(asm.R0, actShot).WithSymbol(drop),
		asm.Return(),
	)
	return &guard{name: "vcn-tags-" + guardVersion, program: p}
}

// newHostGuard is for bridges, whose own end is the host's: nothing goes up to
// the host, nothing comes from it.
func newHostGuard() *guard {
	return &guard{name: "vcn-host-" + guardVersion, program: asm.Instructions{asm.Mov.Imm(asm.R0, actShot), asm.Return()}}
}

// load hands the program to the kernel. The caller closes it.
func (g *guard) load() (*ebpf.Program, error) {
	// The license is empty: the program uses nothing that would ask for one.
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: g.program})
	if err != nil {
		return nil, fmt.Errorf("load filter %s: %w", g.name, err)
	}
	return p, nil
}

// learn loads the program once, for its tag. Before anything else uses g.
func (g *guard) learn() error {
	p, err := g.load()
	if err != nil {
		return err
	}
	info, err := p.Info()
	if err != nil {
		return errors.Join(fmt.Errorf("read tag of filter %s: %w", g.name, err), p.Close())
	}
	g.tag = info.Tag
	return p.Close()
}

var guardSides = []uint32{nl.HANDLE_MIN_INGRESS, nl.HANDLE_MIN_EGRESS}

// stands says whether the guard, and nothing else, filters the link.
func (g *guard) stands(h *nl.Handle, l nl.Link) (bool, error) {
	for _, side := range guardSides {
		filters, err := dump(func() ([]nl.Filter, error) { return h.FilterList(l, side) })
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
			return false, nil // the link, or its queue, is not there
		} else if err != nil {
			return false, fmt.Errorf("read filters of %s: %w", l.Attrs().Name, err)
		}
		if !g.only(filters) {
			return false, nil
		}
	}
	return true, nil
}

func (g *guard) only(filters []nl.Filter) bool {
	if len(filters) != 1 {
		return false
	}
	f, ok := filters[0].(*nl.BpfFilter)
	return ok && f.Name == g.name && f.Tag == g.tag && f.DirectAction && f.Protocol == unix.ETH_P_ALL
}

// ensure puts the guard on a link of ours. What else filters there goes: it
// could let pass what the guard would drop.
func (g *guard) ensure(h *nl.Handle, l nl.Link) error {
	good, err := g.stands(h, l)
	if err != nil || good {
		return err
	}
	p, err := g.load()
	if err != nil {
		return err
	}
	defer p.Close()
	queue := &nl.Clsact{QdiscAttrs: nl.QdiscAttrs{
		LinkIndex: l.Attrs().Index, Handle: nl.MakeHandle(0xffff, 0), Parent: nl.HANDLE_CLSACT,
	}}
	// "No such" is ENOENT or EINVAL, by kernel: adding tells whether it is gone.
	delErr := h.QdiscDel(queue)
	if err := h.QdiscAdd(queue); err != nil {
		return fmt.Errorf("add filter queue to %s: %w", l.Attrs().Name, errors.Join(err, delErr))
	}
	for _, side := range guardSides {
		f := &nl.BpfFilter{
			FilterAttrs: nl.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: side, Priority: guardPriority, Protocol: unix.ETH_P_ALL},
			Fd:          p.FD(), Name: g.name, DirectAction: true,
		}
		if err := h.FilterAdd(f); err != nil {
			return fmt.Errorf("add filter %s to %s: %w", g.name, l.Attrs().Name, err)
		}
	}
	good, err = g.stands(h, l)
	if err == nil && !good {
		err = fmt.Errorf("filter %s of %s is not what was set", g.name, l.Attrs().Name)
	}
	return err
}
