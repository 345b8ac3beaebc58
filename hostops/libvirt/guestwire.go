package libvirt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"vcn/hostops"
)

// The agent's commands and answers are those of the QEMU Guest Agent Protocol
// Reference, guest-exec and guest-exec-status.

// answerBytesMax bounds an agent's answer. Both outputs in base64 fit; libvirtd
// itself passes on 4 MiB at most.
const answerBytesMax = 8 << 20

type agentCommand struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments"`
}

type execArguments struct {
	Path    string   `json:"path"`
	Arg     []string `json:"arg,omitempty"`
	Input   []byte   `json:"input-data,omitempty"` // encoding/json makes it base64
	Capture bool     `json:"capture-output"`
}

type statusArguments struct {
	PID int64 `json:"pid"`
}

func execCommand(c hostops.GuestCommand) string {
	return encode(agentCommand{"guest-exec", execArguments{Path: c.Args[0], Arg: c.Args[1:], Input: c.Stdin, Capture: true}})
}

func statusCommand(pid int64) string {
	return encode(agentCommand{"guest-exec-status", statusArguments{pid}})
}

func encode(c agentCommand) string {
	b, err := json.Marshal(c)
	if err != nil {
		panic("libvirt: an agent's command is plain data: " + err.Error())
	}
	return string(b)
}

// readPID reads guest-exec's answer.
func readPID(answer string) (int64, error) {
	var r struct {
		PID *int64 `json:"pid"`
	}
	if err := readAnswer(answer, &r); err != nil {
		return 0, err
	}
	if r.PID == nil || *r.PID < 1 {
		return 0, fmt.Errorf("%w as it should: a process without number", hostops.ErrNoAgent)
	}
	return *r.PID, nil
}

// readStatus reads guest-exec-status's answer.
func readStatus(answer string) (res hostops.GuestResult, ended bool, err error) {
	var r struct {
		Exited   *bool  `json:"exited"`
		ExitCode *int64 `json:"exitcode"`
		Signal   *int64 `json:"signal"`
		Out      string `json:"out-data"`
		Err      string `json:"err-data"`
	}
	if err := readAnswer(answer, &r); err != nil {
		return res, false, err
	}
	if r.Exited == nil {
		return res, false, fmt.Errorf("%w as it should: a status without its state", hostops.ErrNoAgent)
	}
	if !*r.Exited {
		return res, false, nil
	}
	switch {
	case r.Signal != nil:
		res.Exit = -1
	case r.ExitCode != nil && *r.ExitCode >= 0 && *r.ExitCode <= 255:
		res.Exit = int(*r.ExitCode)
	default:
		return res, false, fmt.Errorf("%w as it should: an end without exit code or signal", hostops.ErrNoAgent)
	}
	var err1, err2 error
	res.Stdout, err1 = output(r.Out)
	res.Stderr, err2 = output(r.Err)
	if err := errors.Join(err1, err2); err != nil {
		return hostops.GuestResult{}, false, fmt.Errorf("%w as it should: %w", hostops.ErrNoAgent, err)
	}
	return res, true, nil
}

// readAnswer reads {"return": …} into v, and nothing but that.
func readAnswer(answer string, v any) error {
	if len(answer) > answerBytesMax {
		return fmt.Errorf("%w as it should: %d bytes at once", hostops.ErrNoAgent, len(answer))
	}
	var outer struct {
		Return json.RawMessage `json:"return"`
	}
	d := json.NewDecoder(strings.NewReader(answer))
	d.DisallowUnknownFields()
	err := d.Decode(&outer)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("something follows the answer")
		} else if !bytes.HasPrefix(outer.Return, []byte("{")) {
			err = errors.New("the answer holds no object")
		} else {
			err = json.Unmarshal(outer.Return, v)
		}
	}
	if err != nil {
		return fmt.Errorf("%w as it should: %s", hostops.ErrNoAgent, brief(err))
	}
	return nil
}

func output(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	return cut(b), err
}

func cut(b []byte) []byte {
	return b[:min(len(b), hostops.GuestBytesMax):min(len(b), hostops.GuestBytesMax)]
}
