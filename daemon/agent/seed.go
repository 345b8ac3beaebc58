package agent

import (
	"fmt"
	"net/netip"
	"strconv"

	"vcn/api"
	"vcn/fsm"
	"vcn/rolls"
)

// seed renders a node's identity and packs it as its seed ISO.
func (a *Agent) seed(n fsm.NodeWork, c fsm.ClusterWork, m rolls.Manifest) ([]byte, error) {
	recipe, err := a.cfg.Catalog.Resolve(c.Rolls, n.Appliance)
	if err != nil {
		return nil, fmt.Errorf("resolve rolls of node %s: %w", n.Node, err)
	}
	data, err := clusterData(c)
	if err != nil {
		return nil, fmt.Errorf("describe cluster %s: %w", c.Name, err)
	}
	tar, err := rolls.Render(data, n.Node, recipe, m)
	if err != nil {
		return nil, fmt.Errorf("render seed of node %s: %w", n.Node, err)
	}
	iso, err := rolls.SeedISO(tar)
	if err != nil {
		return nil, fmt.Errorf("pack seed of node %s: %w", n.Node, err)
	}
	return iso, nil
}

// clusterData turns what the state says of a cluster into what seeds are
// rendered from. The frontend is every worker's gateway and name server.
func clusterData(c fsm.ClusterWork) (rolls.Cluster, error) {
	out := rolls.Cluster{ID: c.ID, Name: c.Name, Project: c.Project, Subnet: c.Subnet, Secrets: c.Secrets}
	subnet, err := netip.ParsePrefix(c.Subnet)
	if err != nil {
		return out, fmt.Errorf("read subnet: %w", err)
	}
	plen := "/" + strconv.Itoa(subnet.Bits())
	frontend := ""
	for _, n := range c.Nodes {
		if n.Role == api.RoleFrontend {
			frontend = n.PrivateIP
		}
	}
	for _, n := range c.Nodes {
		node := rolls.Node{
			Name: n.Name, Role: string(n.Role), Group: n.Group, CPUs: n.CPUs, MemoryMiB: int(n.MemoryBytes >> 20),
			Private: rolls.NIC{MAC: n.PrivateMAC, Address: n.PrivateIP + plen},
		}
		if n.Role == api.RoleFrontend {
			node.Public = &rolls.NIC{MAC: n.PublicMAC, Address: n.PublicIP + "/" + strconv.Itoa(c.PublicBits), Gateway: c.PublicGateway}
		} else {
			node.Private.Gateway = frontend
		}
		out.Nodes = append(out.Nodes, node)
	}
	for _, u := range c.Users {
		out.Users = append(out.Users, rolls.User{Name: u.Name, UID: u.UID, Keys: u.Keys, Admin: u.Admin})
	}
	return out, nil
}
