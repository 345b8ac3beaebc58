package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

// placeHosts is every host as placement sees it.
func placeHosts(v *fsm.View) []placement.Host {
	var out []placement.Host
	common := commonNetwork(v)
	for _, h := range v.Hosts() {
		out = append(out, placement.Host{
			ID: h.ID, Name: h.Name, FailureDomain: h.FailureDomain,
			Gateway: slices.Contains(h.Classes, api.ClassGateway),
			Compute: slices.Contains(h.Classes, api.ClassCompute),
			Storage: slices.Contains(h.Classes, api.ClassStorage),
			CPUs:    h.CPUs, MemoryBytes: h.MemoryBytes, StorageBytes: h.StorageBytes,
			Unusable: cmp.Or(unusable(h), oddNetwork(h, common)),
		})
	}
	return out
}

// commonNetwork is the network driver of most living hosts that carry nodes; of
// two as common the first in the alphabet.
func commonNetwork(v *fsm.View) string {
	count := map[string]int{}
	for _, h := range v.Hosts() {
		if h.Status == fsm.HostAlive && carriesNodes(h) {
			count[h.Network]++
		}
	}
	best := ""
	for _, name := range slices.Sorted(maps.Keys(count)) {
		if count[name] > count[best] {
			best = name
		}
	}
	return best
}

func carriesNodes(h fsm.Host) bool {
	return slices.Contains(h.Classes, api.ClassGateway) || slices.Contains(h.Classes, api.ClassCompute)
}

// unusable says why nothing new may go to a host.
func unusable(h fsm.Host) string {
	switch {
	case h.Cordoned != "":
		return "cordoned: " + h.Cordoned
	case h.Status != fsm.HostAlive:
		return h.Status
	}
	return ""
}

// oddNetwork says why a host, alone with its network driver, may carry no nodes:
// it would be alone on their clusters' networks.
func oddNetwork(h fsm.Host, common string) string {
	if h.Network == common || !carriesNodes(h) {
		return ""
	}
	return fmt.Sprintf("its network driver is %s and that of most hosts is %s: set network.driver", h.Network, common)
}
