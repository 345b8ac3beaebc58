package rolls

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The digests name images on disks and in records: if they change for the same
// rolls, every image of every host is built again.
func TestDigestsStayAsTheyAre(t *testing.T) {
	c := realish(t)
	var b strings.Builder
	for _, r := range c.Rolls() {
		fmt.Fprintf(&b, "%s %s\n", r.ID(), r.Digest())
	}
	for _, a := range []string{"frontend", "worker"} {
		fmt.Fprintf(&b, "%s %s\n", a, mustResolve(t, c, a, "slurm").Digest())
	}
	golden(t, "digests.txt", []byte(b.String()))
}

func TestDigestIgnoresTheOrderOfSetsOnly(t *testing.T) {
	r := mustLoad(t, baseYAML, baseFiles)
	first := r.Digest()
	a := r.Apply["*"]
	slices.Reverse(a.Packages)
	slices.Reverse(a.Seed)
	if r.Digest() != first {
		t.Error("the order of packages or files counts")
	}
	for name, change := range map[string]func(*Roll){
		"a file's content":     func(r *Roll) { r.Files["motd"] = []byte("other") },
		"a file more":          func(r *Roll) { r.Files["more"] = nil },
		"a file's name":        func(r *Roll) { r.Files["motd2"] = r.Files["motd"]; delete(r.Files, "motd") },
		"the version":          func(r *Roll) { r.Version = "2" },
		"a mode":               func(r *Roll) { r.Apply["*"].Files[0].Mode = "0600" },
		"the order of scripts": func(r *Roll) { a := r.Apply["*"]; a.Scripts = []string{"first.sh", "post.sh"}; r.Apply["*"] = a },
		"a secret":             func(r *Roll) { r.Secrets[0].Per = "user" },
		"two files run together": func(r *Roll) {
			r.Files["motd"] = append(r.Files["motd"], r.Files["post.sh"]...)
			r.Files["post.sh"] = nil
		},
	} {
		r := mustLoad(t, baseYAML, baseFiles)
		change(r)
		if r.Digest() == first {
			t.Errorf("%s does not count", name)
		}
	}
	if a, b := mustResolve(t, realish(t), "frontend"), mustResolve(t, realish(t), "worker"); a.Digest() == b.Digest() {
		t.Error("the appliance does not count")
	}
}

func TestViewsKnowTheirRollsAndAppliance(t *testing.T) {
	c := realish(t)
	show := func(es []Entry) string {
		var out []string
		for _, e := range es {
			out = append(out, e.Roll.Name+":"+e.Name)
		}
		return strings.Join(out, " ")
	}
	fe, w := mustResolve(t, c, "frontend", "slurm"), mustResolve(t, c, "worker", "slurm")
	for _, tc := range []struct{ name, got, want string }{
		{"packages of the frontend, by name", show(fe.Packages()), "slurm:munge base:openssh-server slurm:slurmctld base:sudo"},
		{"packages of a worker", show(w.Packages()), "slurm:munge base:openssh-server slurm:slurmd base:sudo"},
		{"units", show(w.Enable()), "base:ssh.service"},
		{"ready commands, in order", show(fe.Ready()), "base:systemctl is-active ssh slurm:sinfo -h -o %D | grep -qx {{len .Workers}} # all of them"},
		{"scripts", fe.Scripts()[0].Roll.Name + ":" + string(fe.Scripts()[0].Content), "base:#!/bin/sh\nexit 0\n"},
		{"files", fe.Files()[0].Path + " " + string(fe.Files()[0].Content()), "/etc/motd Welcome.\n"},
		{"the recipe", w.String(), "worker: base@1.0 users@1.0 slurm@22.5"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, tc.got, tc.want)
		}
	}
}
