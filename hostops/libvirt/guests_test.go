package libvirt

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"vcn/hostops"
)

func testDriver(t *testing.T) *Driver {
	t.Helper()
	d, err := New(Config{Socket: "/nowhere", Accel: "tcg"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// scripted answers each exchange with the next of its lines; an error stays the
// answer when it is the last.
type scripted struct {
	answers []any // string or error
	asked   []string
	waits   []time.Duration
}

func (s *scripted) ask(_ context.Context, command string, wait time.Duration) (string, error) {
	s.asked, s.waits = append(s.asked, command), append(s.waits, wait)
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	if err, ok := a.(error); ok {
		return "", err
	}
	return a.(string), nil
}

func libvirtError(code golibvirt.ErrorNumber, text string) error {
	return golibvirt.Error{Code: uint32(code), Message: text}
}

const started = `{"return":{"pid":77}}`

func TestCommandIsStartedAndWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := base64.StdEncoding.EncodeToString([]byte("hello\xff"))
		s := &scripted{answers: []any{started, `{"return":{"exited":false}}`, `{"return":{"exited":false}}`,
			`{"return":{"exited":true,"exitcode":5,"out-data":"` + out + `","out-truncated":false}}`}}
		res, err := testDriver(t).exec(t.Context(), s.ask, hostops.GuestCommand{Args: []string{"/bin/x", "a b", `"`}, Stdin: []byte{0, 255}})
		if err != nil || res.Exit != 5 || string(res.Stdout) != "hello\xff" || len(res.Stderr) != 0 {
			t.Fatal(res, err)
		}
		var sent struct {
			Execute   string `json:"execute"`
			Arguments struct {
				Path    string   `json:"path"`
				Arg     []string `json:"arg"`
				Input   string   `json:"input-data"`
				Capture bool     `json:"capture-output"`
			} `json:"arguments"`
		}
		if err := json.Unmarshal([]byte(s.asked[0]), &sent); err != nil {
			t.Fatal(err)
		}
		if a := sent.Arguments; sent.Execute != "guest-exec" || a.Path != "/bin/x" || strings.Join(a.Arg, "|") != `a b|"` || a.Input != "AP8=" || !a.Capture {
			t.Errorf("sent %s", s.asked[0])
		}
		if len(s.asked) != 4 || s.asked[3] != `{"execute":"guest-exec-status","arguments":{"pid":77}}` {
			t.Errorf("asked %q", s.asked)
		}
	})
}

// What is longer than a socket's buffer does not reach an agent whole.
func TestLongInputGoesInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := make([]byte, hostops.GuestBytesMax)
		for i := range in {
			in[i] = byte(i * 31 >> 3)
		}
		var got []byte
		var last []string
		file := ""
		ask := func(_ context.Context, command string, _ time.Duration) (string, error) {
			if len(command) > commandBytesMax {
				t.Errorf("a command of %d bytes", len(command))
			}
			var c struct {
				Execute   string        `json:"execute"`
				Arguments execArguments `json:"arguments"`
			}
			if err := json.Unmarshal([]byte(command), &c); err != nil {
				t.Fatal(err)
			}
			if c.Execute == "guest-exec-status" {
				return `{"return":{"exited":true,"exitcode":0}}`, nil
			}
			last = c.Arguments.Arg
			if file == "" && last[1] == inputFirst {
				file = last[2]
			}
			if last[2] != file || !strings.HasPrefix(file, inputDir) {
				t.Errorf("file %q, then %q", file, last[2])
			}
			got = append(got, c.Arguments.Input...)
			return started, nil
		}
		if _, err := testDriver(t).exec(t.Context(), ask, hostops.GuestCommand{Args: []string{"/bin/x", "y"}, Stdin: in}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, in) || strings.Join(last[3:], " ") != "/bin/x y" || last[1] != inputUse {
			t.Errorf("%d bytes came, and last %q", len(got), last)
		}
		// A piece that does not arrive ends it: the command must not run on half of it.
		s := &scripted{answers: []any{started, `{"return":{"exited":true,"exitcode":1}}`}}
		if _, err := testDriver(t).exec(t.Context(), s.ask, hostops.GuestCommand{Args: []string{"/bin/x"}, Stdin: in}); !errors.Is(err, hostops.ErrNoAgent) || len(s.asked) != 2 {
			t.Errorf("%v after %d", err, len(s.asked))
		}
	})
}

func TestPiecesAreOfShellsThatWork(t *testing.T) {
	dir := t.TempDir()
	file := dir + "/f"
	sh := func(stdin, script string, args ...string) string {
		cmd := exec.Command("sh", append([]string{"-c", strings.ReplaceAll(script, "/run/vcn-input", dir), file}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
		return string(out)
	}
	sh("one ", inputFirst)
	sh("two", inputMore)
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if got := sh("", inputUse, "cat", "-"); got != "one two" {
		t.Errorf("%q", got)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is left")
	}
}

func TestAnswersThatAreNotAsTheyShouldBe(t *testing.T) {
	deep := strings.Repeat("[", 20000)
	for name, answer := range map[string]string{
		"nothing": "", "no JSON": "hello", "an array": `[]`, "no return": `{}`, "a number": `{"return":7}`,
		"no pid": `{"return":{}}`, "a negative pid": `{"return":{"pid":-1}}`, "a pid as text": `{"return":{"pid":"1"}}`,
		"two answers": started + started, "more beside it": `{"return":{"pid":1},"error":{}}`,
		"a pid without end": `{"return":{"pid":` + strings.Repeat("9", 400) + `}}`,
		"too deep":          `{"return":{"pid":` + deep + `}}`,
		"too large":         `{"return":{"pid":1,"x":"` + strings.Repeat("x", answerBytesMax) + `"}}`,
	} {
		if pid, err := readPID(answer); !errors.Is(err, hostops.ErrNoAgent) || len(err.Error()) > 1000 {
			t.Errorf("%s: %d, %.300v", name, pid, err)
		}
	}
	for name, answer := range map[string]string{
		"no state": `{"return":{}}`, "no end": `{"return":{"exited":true}}`, "a strange code": `{"return":{"exited":true,"exitcode":4000000000000}}`,
		"no base64":   `{"return":{"exited":true,"exitcode":0,"out-data":"%%"}}`,
		"a text code": `{"return":{"exited":true,"exitcode":"0"}}`,
		"null":        `{"return":null}`,
	} {
		if res, ended, err := readStatus(answer); !errors.Is(err, hostops.ErrNoAgent) || ended {
			t.Errorf("%s: %+v, %v, %v", name, res, ended, err)
		}
	}
	res, ended, err := readStatus(`{"return":{"exited":true,"signal":9}}`)
	if err != nil || !ended || res.Exit != -1 {
		t.Errorf("a signal: %+v, %v, %v", res, ended, err)
	}
}

func TestOutputIsCutOff(t *testing.T) {
	b := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x"), hostops.GuestBytesMax+100))
	res, _, err := readStatus(`{"return":{"exited":true,"exitcode":0,"err-data":"` + b + `"}}`)
	if err != nil || len(res.Stderr) != hostops.GuestBytesMax {
		t.Errorf("%d bytes, %v", len(res.Stderr), err)
	}
}

func TestFailuresOfTheAgentAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			code golibvirt.ErrorNumber
			want error
		}{
			"not connected": {golibvirt.ErrAgentUnresponsive, hostops.ErrNoAgent},
			"out of step":   {golibvirt.ErrAgentUnsynced, hostops.ErrNoAgent},
			"refused":       {golibvirt.ErrInternalError, hostops.ErrNoAgent},
			"off":           {golibvirt.ErrOperationInvalid, hostops.ErrNotFound},
			"gone":          {golibvirt.ErrNoDomain, hostops.ErrNotFound},
		} {
			s := &scripted{answers: []any{libvirtError(c.code, name)}}
			if _, err := testDriver(t).exec(t.Context(), s.ask, hostops.GuestCommand{Args: []string{"/bin/x"}}); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
			if len(s.asked) != 1 {
				t.Errorf("%s: started %d times: whether it ran is not known", name, len(s.asked))
			}
		}
		s := &scripted{answers: []any{libvirtError(golibvirt.ErrInternalError,
			"unable to execute QEMU agent command 'guest-exec': Guest agent command failed: Failed to execute child process “/x” (No such file or directory)")}}
		res, err := testDriver(t).exec(t.Context(), s.ask, hostops.GuestCommand{Args: []string{"/x"}})
		if err != nil || res.Exit != 127 || len(res.Stderr) == 0 {
			t.Errorf("an absent program: %+v, %v", res, err)
		}
	})
}

func TestSlowAgentIsAskedAgainAndASilentOneGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := libvirtError(golibvirt.ErrAgentUnresponsive, "no answer")
		s := &scripted{answers: []any{started, slow, slow, `{"return":{"exited":true,"exitcode":0}}`}}
		if _, err := testDriver(t).exec(t.Context(), s.ask, hostops.GuestCommand{Args: []string{"/bin/x"}}); err != nil {
			t.Errorf("slow: %v", err)
		}
		s = &scripted{answers: []any{started, slow}}
		if _, err := testDriver(t).exec(t.Context(), s.ask, hostops.GuestCommand{Args: []string{"/bin/x"}}); !errors.Is(err, hostops.ErrNoAgent) || len(s.asked) != 1+agentMisses {
			t.Errorf("silent: %v after %d", err, len(s.asked))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s = &scripted{answers: []any{started, `{"return":{"exited":false}}`}}
		if _, err := testDriver(t).exec(ctx, s.ask, hostops.GuestCommand{Args: []string{"/bin/x"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a command that never ends: %v", err)
		}
	})
}

// Each exchange holds a worker of libvirtd while its guest is silent.
func TestSilentGuestsLeaveLibvirtdItsWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := testDriver(t)
		var mu sync.Mutex
		now, most := 0, 0
		count := func(by int) {
			mu.Lock()
			defer mu.Unlock()
			now += by
			most = max(most, now)
		}
		hang := func(ctx context.Context, _ string, wait time.Duration) (string, error) {
			count(1)
			time.Sleep(wait)
			count(-1)
			return "", libvirtError(golibvirt.ErrAgentUnresponsive, "no answer")
		}
		done := make(chan error)
		const guests = 30
		for range guests {
			go func() {
				_, err := d.exec(t.Context(), hang, hostops.GuestCommand{Args: []string{"/bin/x"}})
				done <- err
			}()
		}
		for range guests {
			if err := <-done; !errors.Is(err, hostops.ErrNoAgent) {
				t.Error(err)
			}
		}
		if most != agentCallsMax {
			t.Errorf("%d at once", most)
		}
	})
}

func FuzzAgentAnswer(f *testing.F) {
	for _, s := range []string{started, `{"return":{"exited":true,"exitcode":0,"out-data":"eA=="}}`, `{"error":{"class":"x"}}`, `{"return":{"exited":true,"signal":9}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		if pid, err := readPID(answer); err == nil && pid < 1 {
			t.Errorf("%q gives process %d", answer, pid)
		}
		res, ended, err := readStatus(answer)
		if err != nil && (ended || len(res.Stdout) > 0) || ended && (res.Exit < -1 || res.Exit > 255) || len(res.Stdout) > hostops.GuestBytesMax {
			t.Errorf("%q gives %s, %v, %v", answer, fmt.Sprint(res.Exit), ended, err)
		}
	})
}
