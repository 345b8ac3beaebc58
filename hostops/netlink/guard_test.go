package netlink

import (
	"testing"

	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the programs drop is tested with frames.
func TestGuardNamesFitTheKernels(t *testing.T) {
	for _, g := range []*guard{newTagGuard(), newHostGuard()} {
		if len(g.name) >= 256 { // CLS_BPF_NAME_LEN
			t.Errorf("%s is too long a name", g.name)
		}
	}
}

func TestOnlyTheGuardMayFilter(t *testing.T) {
	g := &guard{name: "g", tag: "aa"}
	good := func() *nl.BpfFilter {
		return &nl.BpfFilter{FilterAttrs: nl.FilterAttrs{Protocol: unix.ETH_P_ALL}, Name: "g", Tag: "aa", DirectAction: true}
	}
	if !g.only([]nl.Filter{good()}) {
		t.Error("the guard itself is refused")
	}
	for name, filters := range map[string][]nl.Filter{
		"none":        {},
		"another":     {good(), good()},
		"other kind":  {&nl.U32{}},
		"other name":  {func() nl.Filter { f := good(); f.Name = "x"; return f }()},
		"other code":  {func() nl.Filter { f := good(); f.Tag = "bb"; return f }()},
		"only counts": {func() nl.Filter { f := good(); f.DirectAction = false; return f }()},
		"only IPv4":   {func() nl.Filter { f := good(); f.Protocol = unix.ETH_P_IP; return f }()},
	} {
		if g.only(filters) {
			t.Errorf("%s: taken", name)
		}
	}
}
