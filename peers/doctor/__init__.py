"""What is wrong around a peer, and what to do about it: ``peerage doctor``.

    facts          what was seen, as plain values
    judging_device, judging_network    facts → findings: everything that is decided, pure
    seeing_home    a home's files, settings, certificate and state
    seeing_device  disk, memory, ports of the machine
    seeing_network the nameserver's addresses one by one, who answers there, proxies, multicast
    seeing_peers   what the peer that runs here and the nameserver say
    surroundings   what the checks share, seen once
    looking        the checks, all at once, each with a limit in time

Owns the words for people who look at one machine; refuses to change anything, and to say anything of a key or a token.

Rules: a check never hangs: what does not come back in time is a finding itself; a check that cannot be made says why
and is not taken for a good one; a device that is AUTONOMOUS is not made to dial.
"""
