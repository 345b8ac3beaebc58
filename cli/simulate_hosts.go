package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"vcn/api"
)

const wantHosts = "such as 10:cpus=64,memory=256GiB,classes=compute+storage,storage=4TiB"

// parseSimulateHost reads COUNT:key=value,...
func parseSimulateHost(text string, n int) (h SimulateHost, want string) {
	h = SimulateHost{Name: fmt.Sprintf("more%d", n), Classes: []api.Class{api.ClassCompute}}
	count, rest, ok := strings.Cut(text, ":")
	if _, err := fmt.Sscanf(count+" .", "%d .", &h.Count); !ok || err != nil || h.Count < 1 || h.Count > simulateHostsMax {
		return h, "a number of hosts and what they are, " + wantHosts
	}
	for pair := range strings.SplitSeq(rest, ",") {
		key, value, _ := strings.Cut(pair, "=")
		var err error
		switch key {
		case "cpus":
			_, err = fmt.Sscanf(value+" .", "%d .", &h.CPUs)
		case "memory":
			h.Memory, err = api.ParseQuantity(value)
		case "storage":
			h.Storage, err = api.ParseQuantity(value)
		case "name":
			h.Name = value
		case "domain":
			h.FailureDomain = value
		case "classes":
			h.Classes = nil
			for c := range strings.SplitSeq(value, "+") {
				h.Classes = append(h.Classes, api.Class(c))
			}
		default:
			return h, "cpus, memory, storage, classes, name or domain, " + wantHosts
		}
		var f api.FieldError
		switch {
		case errors.As(err, &f):
			return h, key + " " + f.Want
		case err != nil:
			return h, key + " as a whole number, " + wantHosts
		}
	}
	return h, wrongHost(h)
}

// wrongHost says what is wanted of a host; empty if it is right.
func wrongHost(h SimulateHost) string {
	switch {
	case h.CPUs < 1 || h.CPUs > 1<<20:
		return "cpus of 1 to 1048576"
	case h.Memory < 1:
		return "memory, such as 256GiB"
	case len(h.Classes) == 0:
		return "classes: gateway, compute, storage"
	}
	for _, c := range h.Classes {
		if c != api.ClassGateway && c != api.ClassCompute && c != api.ClassStorage {
			return fmt.Sprintf("classes of gateway, compute and storage, not %q", string(c))
		}
		if c == api.ClassStorage && h.Storage < 1 {
			return "storage of what is of class storage, such as 4TiB"
		}
	}
	return ""
}

// readHosts reads a file of hosts.
func (a *app) readHosts(path string) ([]SimulateHost, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, usage("cannot read the hosts: "+err.Error(), "Check the path after --hosts")
	}
	defer file.Close()
	var list struct {
		Hosts []SimulateHost `json:"hosts"`
	}
	if err := api.ReadStrict(file, simulateFileMax, &list); err != nil {
		var p *api.Problem
		if errors.As(err, &p) {
			p.Detail, p.Next = path+": "+p.Detail, "An example is in: vcnctl simulate --help"
			return nil, p
		}
		return nil, usage("cannot read the hosts: "+err.Error(), "Check the path after --hosts")
	}
	var errs []api.FieldError
	total := 0
	for i, h := range list.Hosts {
		total += max(h.Count, 1)
		if want := wrongHost(h); want != "" {
			errs = append(errs, api.FieldError{Field: fmt.Sprintf("hosts[%d]", i), Value: h.Name, Want: want})
		}
		if h.Name == "" || h.Count < 0 || h.Count > simulateHostsMax || total > simulateHostsMax {
			errs = append(errs, api.FieldError{Field: fmt.Sprintf("hosts[%d]", i), Value: h.Name, Want: fmt.Sprintf("a name, and a count of 1 to %d in all", simulateHostsMax)})
		}
		if len(errs) > 20 {
			break
		}
	}
	if len(list.Hosts) == 0 {
		errs = append(errs, api.FieldError{Field: "hosts", Want: "at least one host"})
	}
	if len(errs) > 0 {
		return nil, usage(path+": the hosts are not right", "An example is in: vcnctl simulate --help", errs...)
	}
	return list.Hosts, nil
}

// hostsThereAre leaves out those that have left, and those that cannot carry anything.
func hostsThereAre(list []api.Host) []SimulateHost {
	out := []SimulateHost{}
	for _, h := range list {
		if h.Status != "left" && h.CPUs > 0 && h.Memory > 0 {
			out = append(out, SimulateHost{Name: h.Name, Classes: h.Classes, CPUs: h.CPUs, Memory: h.Memory, Storage: h.Storage, FailureDomain: h.FailureDomain})
		}
	}
	return out
}
