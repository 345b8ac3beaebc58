package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"vcn/api"
	"vcn/fsm"
	"vcn/hostops"
	"vcn/internal/durable"
	"vcn/rolls"
)

// keepSeed returns the path of a node's seed ISO, and makes it if it is not there.
// A seed is made once for each generation: one that another version of vcnd
// renders differently would undo what the node's owner has changed since.
func (a *Agent) keepSeed(dir string, n fsm.NodeWork, c fsm.ClusterWork, image hostops.Image) (string, error) {
	path := filepath.Join(dir, "seed-"+strconv.FormatUint(n.Generation, 10)+".iso")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	made, err := a.render(n, c, image)
	if err != nil {
		return "", err
	}
	iso, err := rolls.SeedISO(made.seed)
	if err != nil {
		return "", fmt.Errorf("pack seed of node %s: %w", n.Node, err)
	}
	// First: a seed that is here without it is one of an older release.
	if err := writeLive(dir, made.state); err != nil {
		return "", err
	}
	return path, durable.WriteFile(path, iso, 0o600)
}

// rendered is a node's configuration.
type rendered struct {
	seed, live []byte    // tars
	state      liveState // of a node that has it
}

// render makes a node's seed and the part of it that changes while it runs.
func (a *Agent) render(n fsm.NodeWork, c fsm.ClusterWork, image hostops.Image) (rendered, error) {
	var out rendered
	if image.Recipe == "" {
		return out, fmt.Errorf("render seed of node %s: its image is not here", n.Node)
	}
	recipe, err := a.cfg.Catalog.Resolve(c.Rolls, n.Appliance)
	if err != nil {
		return out, fmt.Errorf("resolve rolls of node %s: %w", n.Node, err)
	}
	if have := recipe.Digest(); have != image.Recipe {
		return out, fmt.Errorf("render seed of node %s: its image was made of recipe %.12s, the rolls of this vcnd make %.12s", n.Node, image.Recipe, have)
	}
	data, err := clusterData(c)
	if err != nil {
		return out, fmt.Errorf("describe cluster %s: %w", c.Name, err)
	}
	if out.seed, err = rolls.Render(data, n.Node, recipe, image.Manifest); err != nil {
		return out, fmt.Errorf("render seed of node %s: %w", n.Node, err)
	}
	if out.live, err = rolls.RenderLive(data, n.Node, recipe, image.Manifest); err != nil {
		return out, fmt.Errorf("render live files of node %s: %w", n.Node, err)
	}
	out.state = liveState{Cluster: clusterSum(c), Tar: tarDigest(out.live)}
	return out, nil
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
