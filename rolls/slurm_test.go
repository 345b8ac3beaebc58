package rolls

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// slurmStubs answers as Slurm 22.05 does, from files: what "scontrol show nodes"
// says before and after the changes, and what squeue says.
func slurmStubs(t *testing.T, before, after, jobs string) *shell {
	t.Helper()
	s := newShell(t)
	for name, text := range map[string]string{"before": before, "after": after, "jobs": jobs} {
		if err := os.WriteFile(filepath.Join(s.bin, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.stub("scontrol", `case "$*" in
"-a -o show nodes") if [ -e $STUB/asked ]; then cat $STUB/after; else : >$STUB/asked; cat $STUB/before; fi ;;
update*) echo "$*" >>$STUB/updates ;;
*) echo "unexpected: $*" >&2; exit 9 ;;
esac`)
	s.stub("squeue", `cat $STUB/jobs`)
	return s
}

func (s *shell) updates() string {
	b, _ := os.ReadFile(filepath.Join(s.bin, "updates"))
	return string(b)
}

func (s *shell) slurm(args ...string) (string, int) {
	return s.run(nil, "builtin/slurm/scheduler", append([]string{"sync", "vcn: leaves the cluster"}, args...)...)
}

// node is a line of "scontrol -o show nodes".
func node(name, state, reason string) string {
	s := "NodeName=" + name + " Arch=x86_64 CoresPerSocket=1 CPUAlloc=0 CPUTot=2 NodeAddr=" + name +
		" RealMemory=896 State=" + state + " ThreadsPerCore=1 Partitions=all NextState=x"
	if reason != "" {
		s += " Reason=" + reason + " [root@2026-11-23T18:00:00]"
	}
	return s + "\n"
}

func TestSlurmHookDrainsListedAndGivesBackItsOwn(t *testing.T) {
	s := slurmStubs(t,
		node("frontend-x", "IDLE", "")+node("w-0", "IDLE", "")+node("w-1", "MIXED", "")+node("w-2", "IDLE+DRAIN", "vcn: leaves the cluster")+
			node("w-3", "IDLE+DRAIN", "vcn: was to leave")+node("w-4", "DOWN+DRAIN", "broken fan, not vcn: x")+node("w-5", "IDLE+DRAIN", "disk"),
		node("w-0", "IDLE+DRAIN", "vcn: leaves the cluster")+node("w-1", "MIXED+DRAIN", "vcn: leaves the cluster")+
			node("w-2", "IDLE+DRAIN", "vcn: leaves the cluster")+node("w-5", "IDLE+DRAIN", "disk"),
		"12|RUNNING|w-1\n13|PENDING|\n9|COMPLETED|w-[0-2]\n")
	out, code := s.slurm("w-0", "w-1", "w-2", "w-5")
	if want := "w-0 idle\nw-1 busy jobs 12\nw-2 idle\nw-5 idle\n"; out != want || code != 0 {
		t.Errorf("%q, %d, want %q", out, code, want)
	}
	if want := "update NodeName=w-0,w-1 State=DRAIN Reason=vcn: leaves the cluster\nupdate NodeName=w-3 State=UNDRAIN\n"; s.updates() != want {
		t.Errorf("updates %q, want %q", s.updates(), want)
	}
}

func TestSlurmHookGivesEverythingBackWhenNothingIsListed(t *testing.T) {
	s := slurmStubs(t, node("w-0", "IDLE+DRAIN", "vcn: a")+node("w-1", "ALLOCATED+DRAIN", "vcn: a")+node("w-2", "IDLE+DRAIN", "mine"), "", "")
	if out, code := s.slurm(); out != "" || code != 0 || s.updates() != "update NodeName=w-0,w-1 State=UNDRAIN\n" {
		t.Errorf("%q, %d, updates %q", out, code, s.updates())
	}
	s.stub("scontrol", "exit 1")
	if _, code := s.slurm(); code == 0 {
		t.Error("a controller that does not answer: success")
	}
}

// One worker, one state, one list of jobs each: idle only where it is certain.
func TestSlurmHookSaysIdleOnlyWhenItIsCertain(t *testing.T) {
	const why = "vcn: leaves the cluster"
	for _, c := range []struct{ name, state, jobs, want string }{
		{"drained", "IDLE+DRAIN", "", "idle"},
		{"drained, other flags", "IDLE+DRAIN+RESERVED", "", "idle"},
		{"down and drained, no jobs", "DOWN+DRAIN+NOT_RESPONDING", "", "idle"},
		{"a job runs", "ALLOCATED+DRAIN", "5|RUNNING|w-1\n", "busy"},
		{"a job of many nodes runs", "MIXED+DRAIN", "5|RUNNING|a-2,w-[0-1,7],x\n", "busy"},
		{"a job of padded names runs", "IDLE+DRAIN", "5|RUNNING|w-[00-03]\n", "idle"},
		{"an array's task is suspended", "ALLOCATED+DRAIN", "5_3|SUSPENDED|w-[1-2]\n", "busy"},
		{"a state of later times", "IDLE+DRAIN", "5|EXPEDITING|w-1\n", "busy"},
		{"a job is being set up", "IDLE+DRAIN", "5|CONFIGURING|w-1\n", "busy"},
		{"a job is ending", "IDLE+COMPLETING+DRAIN", "5|COMPLETING|w-1\n", "busy"},
		{"a node is ending a job", "IDLE+COMPLETING+DRAIN", "", "busy"},
		{"not drained", "IDLE", "", "unknown"},
		{"not responding with a job", "DOWN*+DRAIN", "5|RUNNING|w-1\n", "unknown"},
		{"not responding with a job, as 22.05 says it", "ALLOCATED+DRAIN+NOT_RESPONDING", "5|RUNNING|w-1\n", "unknown"},
		{"not responding, a job is ending", "IDLE+COMPLETING+DRAIN+NOT_RESPONDING", "", "unknown"},
		{"allocated without a job", "ALLOCATED+DRAIN", "", "unknown"},
		{"never heard of", "UNKNOWN+DRAIN", "", "unknown"},
		{"no state", "", "", "unknown"},
		{"jobs that cannot be read", "IDLE+DRAIN", "slurm_load_jobs error\n", "unknown"},
		{"half a line", "IDLE+DRAIN", "5|RUNNING", "unknown"},
		{"a running job without nodes", "IDLE+DRAIN", "5|RUNNING|\n", "unknown"},
		{"a host list that cannot be read", "IDLE+DRAIN", "5|RUNNING|w-[0-\n", "unknown"},
		{"two brackets", "IDLE+DRAIN", "5|RUNNING|w[0-1]x[1-2]\n", "unknown"},
		{"a busy one all the same", "ALLOCATED+DRAIN", "5|RUNNING|w-1\n6|RUNNING|w-[0-\n", "busy"},
	} {
		s := slurmStubs(t, node("w-1", c.state, why), node("w-1", c.state, why), c.jobs)
		out, code := s.slurm("w-1")
		if f := strings.Fields(out); code != 0 || len(f) < 2 || f[0] != "w-1" || f[1] != c.want || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: %q, %d, want %s", c.name, out, code, c.want)
		}
	}
}

func TestSlurmHookWithoutAnswersKnowsNothing(t *testing.T) {
	drained := node("w-1", "IDLE+DRAIN", "vcn: x")
	s := slurmStubs(t, node("w-1", "IDLE", ""), node("w-1", "IDLE+DRAIN", "vcn: x"), "")
	if out, _ := s.slurm("w-2"); out != "w-2 unknown slurmctld does not know it\n" {
		t.Errorf("an unknown node: %q", out)
	}
	for name, spoil := range map[string]func(*shell){
		"no controller":       func(s *shell) { s.stub("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1") },
		"a refused drain":     func(s *shell) { s.stub("scontrol", `case $1 in update) exit 1;; esac; cat $STUB/idle`) },
		"no queue":            func(s *shell) { s.stub("squeue", "exit 1") },
		"an unknown node":     func(s *shell) { s.stub("scontrol", "echo NodeName=other State=IDLE+DRAIN") },
		"a node twice":        func(s *shell) { s.stub("scontrol", "cat $STUB/after $STUB/after") },
		"an answer of no use": func(s *shell) { s.stub("scontrol", "echo hello") },
		"an empty answer":     func(s *shell) { s.stub("scontrol", "exit 0") },
	} {
		s := slurmStubs(t, drained, drained, "")
		if err := os.WriteFile(filepath.Join(s.bin, "idle"), []byte(node("w-1", "IDLE", "")), 0o644); err != nil {
			t.Fatal(err)
		}
		spoil(s)
		if out, code := s.slurm("w-1"); !strings.HasPrefix(out, "w-1 unknown ") || code != 0 {
			t.Errorf("%s: %q, %d", name, out, code)
		}
	}
}

func TestWorkersDaemonIsStartedAgainOnceTheControllerKnowsIt(t *testing.T) {
	s := newShell(t)
	s.env = append(s.env, "VCN_RUN="+s.root)
	s.stub("systemctl", `echo "$1" >>$STUB/calls`)
	s.stub("sinfo", `cat $STUB/state`)
	ready := func(state string) bool {
		if err := os.WriteFile(filepath.Join(s.bin, "state"), []byte(state), 0o644); err != nil {
			t.Fatal(err)
		}
		_, code := s.run(nil, "builtin/slurm/slurmd-ready")
		return code == 0
	}
	for _, state := range []string{"", "", "unknown*\n", "down*\n"} {
		if ready(state) {
			t.Errorf("ready with %q", state)
		}
	}
	if !ready("idle\n") || !ready("drained\n") || ready("idle*\n") {
		t.Error("an idle or drained node is ready, one that does not respond is not")
	}
	calls, err := os.ReadFile(filepath.Join(s.bin, "calls"))
	if err != nil || strings.Count(string(calls), "restart") != 1 {
		t.Errorf("%q, %v", calls, err)
	}
}
