package fsm

import "github.com/hashicorp/raft"

// ApplyCommand applies one encoded command at the next index, for who has a
// state of his own and no log, such as a simulation. It is not for a state that
// Raft feeds, and as Apply it is called by one goroutine at a time.
func (f *FSM) ApplyCommand(index uint64, cmd []byte) Result {
	return f.Apply(&raft.Log{Index: index, Type: raft.LogCommand, Data: cmd}).(Result)
}

// ApplyCommands applies many, the first at index and each of the others at the
// next one, as ApplyBatch does.
func (f *FSM) ApplyCommands(index uint64, cmds [][]byte) []Result {
	logs := make([]*raft.Log, len(cmds))
	for i, cmd := range cmds {
		logs[i] = &raft.Log{Index: index + uint64(i), Type: raft.LogCommand, Data: cmd}
	}
	out := make([]Result, len(cmds))
	for i, res := range f.ApplyBatch(logs) {
		out[i] = res.(Result)
	}
	return out
}
