-- Drives a real neovim through one session with the server, and writes what a person would see as JSON.
-- Arguments in the environment: SCRIPT, the text to edit; LONG, a statement that goes on; SEEN, what was seen.

local seen = {}
local resume
local script, out = vim.env.SCRIPT, vim.env.SEEN

local function finish()
  local file = io.open(out, "w")
  file:write(vim.json.encode(seen))
  file:close()
  vim.cmd("qall!")
end

local function fail(what)
  seen.failed = what
  finish()
end

-- Lets the editor go on, as it does between two keys of a person, until something is so.
local function wait(what, fits)
  local this, left = coroutine.running(), 1000
  while not fits() do
    left = left - 1
    if left == 0 then
      error("waited in vain for " .. what)
    end
    vim.defer_fn(function() resume(this) end, 20)
    coroutine.yield()
  end
end

local function place(line, column)
  vim.api.nvim_win_set_cursor(0, { line, column or 0 })
end

local function find(text)
  for number, line in ipairs(vim.api.nvim_buf_get_lines(0, 0, -1, false)) do
    local column = line:find(text, 1, true)
    if column then
      return number, column - 1
    end
  end
  error("no " .. text)
end

local function diagnosed()
  local found = {}
  for _, one in ipairs(vim.diagnostic.get(0)) do
    table.insert(found, { line = one.lnum, column = one.col, until_ = one.end_col, message = one.message, severity = one.severity })
  end
  return found
end

local function completed(line_text)
  vim.api.nvim_buf_set_lines(0, -1, -1, false, { line_text })
  place(vim.api.nvim_buf_line_count(0), #line_text)
  local params = vim.lsp.util.make_position_params()
  params.position.character = #line_text
  local answers = vim.lsp.buf_request_sync(0, "textDocument/completion", params, 10000)
  vim.api.nvim_buf_set_lines(0, -2, -1, false, {})
  local labels = {}
  for _, answer in pairs(answers) do
    for _, item in ipairs(answer.result.items) do
      table.insert(labels, item.label)
    end
  end
  return labels
end

local function request(method, params)
  for _, answer in pairs(vim.lsp.buf_request_sync(0, method, params, 10000)) do
    return answer.result
  end
end

local function answers()
  local buffer = vim.fn.bufnr("peerage://answers")
  return buffer == -1 and {} or vim.api.nvim_buf_get_lines(buffer, 0, -1, false)
end

local function contains(lines, wanted)
  return table.concat(lines, "\n"):find(wanted, 1, true) ~= nil
end

local function session()
  vim.cmd("edit " .. script)
  wait("the peer's catalogue", function()
    return vim.g.peerage ~= nil and type(vim.g.peerage.catalogue) == "string"
  end)
  seen.state = vim.g.peerage
  seen.filetype = vim.bo.filetype

  -- diagnostics: none for the reference's statements; one while a mistake is typed; none once it is mended
  local told = 0
  vim.api.nvim_create_autocmd("DiagnosticChanged", { callback = function() told = told + 1 end })
  seen.clean = diagnosed()
  vim.api.nvim_buf_set_lines(0, -1, -1, false, { 'edge:grops("MY-EDGE-1");' })
  wait("a diagnostic", function() return #vim.diagnostic.get(0) > 0 end)
  seen.mistake = diagnosed()
  vim.api.nvim_buf_set_lines(0, -2, -1, false, {})
  wait("no diagnostic", function() return #vim.diagnostic.get(0) == 0 end)

  -- completion: what the server offers, and what the editor's own completion puts in
  seen.functions = completed("edge:add_")
  seen.edges = completed('edge:groups("')
  seen.groups = completed('edge:add_group("MY-EDGE-1", "')
  seen.keys = completed('edge:set_group_models("g", [{"')
  seen.peers = completed("//peer: ")
  seen.made = completed("war")
  vim.api.nvim_buf_set_lines(0, -1, -1, false, { "edge:add_gr" })
  place(vim.api.nvim_buf_line_count(0), 0)
  vim.opt.completeopt = { "menuone", "noinsert" }
  vim.api.nvim_input("A<C-x><C-o>")
  wait("the menu", function() return vim.fn.pumvisible() == 1 end)
  vim.api.nvim_input("<C-y><Esc>")
  wait("the end of typing", function() return vim.fn.mode() == "n" end)
  seen.typed = vim.api.nvim_buf_get_lines(0, -2, -1, false)[1]
  vim.api.nvim_buf_set_lines(0, -2, -1, false, {})

  -- hover, signature, definition
  place(find("edge:get_config"))
  seen.hover = request("textDocument/hover", vim.lsp.util.make_position_params()).contents.value
  local line, column = find('"MY-EDGE-1", "staging-area-edges"')
  place(line, column + 13)
  seen.signature = request("textDocument/signatureHelp", vim.lsp.util.make_position_params())
  line, column = find("warm(t)")
  place(line, column)
  vim.lsp.buf.definition()
  wait("the definition", function() return vim.api.nvim_win_get_cursor(0)[1] ~= line end)
  seen.definition = vim.api.nvim_get_current_line()

  -- lenses: run the statement below one; what it answers
  vim.lsp.codelens.refresh()
  wait("lenses", function() return #vim.lsp.codelens.get(0) > 0 end)
  seen.lenses = {}
  for _, lens in ipairs(vim.lsp.codelens.get(0)) do
    table.insert(seen.lenses, lens.command.title)
  end
  line = find("1 + 1;")
  place(line - 1, 0)
  vim.lsp.codelens.run()
  wait("the answer", function() return contains(answers(), "2") end)
  place((find("edge:groups(")))
  vim.cmd("PeerageRun")
  wait("the groups", function() return contains(answers(), "[") end)
  seen.answers = answers()

  -- cancelling what runs
  vim.api.nvim_buf_set_lines(0, -1, -1, false, { "//peer: MY-EDGE-1", vim.env.LONG .. ";" })
  place(vim.api.nvim_buf_line_count(0), 0)
  vim.cmd("PeerageRun")
  wait("rows", function() return #answers() > 10 end)
  vim.cmd("PeerageCancel")
  wait("the ledger", function() return contains(answers(), "cancelled") end)
  vim.api.nvim_buf_set_lines(0, -3, -1, false, {})

  -- rename, format, save
  place(find("warm(Number"))
  vim.lsp.buf.rename("is_warm")
  wait("the new name", function() return contains(vim.api.nvim_buf_get_lines(0, 0, -1, false), "is_warm(t)") end)
  vim.lsp.buf.formatting_sync(nil, 10000)
  seen.text = vim.api.nvim_buf_get_lines(0, 0, -1, false)
  vim.cmd("write")

  -- the default peer
  vim.ui.select = function(names, _, done) done(names[#names]); seen.offered = names end
  vim.cmd("PeerageDefaultPeer")
  wait("the default peer", function() return type(vim.g.peerage.defaultPeer) == "string" end)
  wait("the answer there", function() return type(vim.g.peerage.catalogue) == "string" end)
  seen.chosen = vim.g.peerage
end

resume = function(this)
  local fine, problem = coroutine.resume(this)
  if not fine then
    local messages = vim.fn.execute("messages")
    fail({ problem = tostring(problem), answers = answers(), messages = messages, diagnostics = diagnosed() })
  elseif coroutine.status(this) == "dead" then
    finish()
  end
end

local this = coroutine.create(session)
vim.defer_fn(function() resume(this) end, 50)
